"""The HTML of report.html and comparison.html (Jinja2 templates); they work offline and need no other file."""

_STYLE = """<style>
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1120px;padding:0 1rem;color:#1b1b1b}
h1{overflow-wrap:anywhere}
table{border-collapse:collapse;margin:.5rem 1rem 1rem 0;display:inline-table;vertical-align:top;max-width:100%}
th,td{padding:.2rem .8rem;border-bottom:1px solid #ccc;text-align:right}
th:first-child,td:first-child{text-align:left}
.cards{display:flex;flex-wrap:wrap;gap:14px}
.card{border:1px solid #ccc;border-radius:6px;padding:8px;background:#fafafa;max-width:min(100%,546px);
box-sizing:border-box}
.pair{display:flex;gap:8px}figure{margin:0;flex:0 1 260px;min-width:0}img{width:100%;height:auto;background:#000}
figcaption{font-size:13px;overflow-wrap:anywhere}.removed b::after{content:" removed";color:#d55e00;font-weight:600}
.kept b::after,.flagged b::after{content:" kept";color:#0072b2;font-weight:600}
.note{color:#555;font-size:13px}select{margin-top:3px;max-width:100%}button{font:inherit;padding:.4rem .9rem}
.bar{position:sticky;top:0;background:#fff;padding:.5rem 0;border-bottom:1px solid #ccc;z-index:1}
@media(max-width:600px){body{margin:1rem auto;padding:0 .6rem}th,td{padding:.2rem .35rem}}
</style>"""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>busmt curation</title>
__STYLE__</head><body>
<h1>Curation</h1>
<div class="bar"><button onclick="save()">Save overrides.csv</button></div>
<p class="note">Change a decision below the picture, save the file, and run the same command with
<code>--overrides overrides.csv</code>. Orange: lesion outline.
Blue: burnt-in marks; what they are stands in decisions.csv.</p>
{% for note in notes %}<p><b>Note:</b> {{ note }}</p>{% endfor %}
<table><tr><th>class</th><th>before</th><th>kept</th><th>of these flagged</th><th>removed</th></tr>
{% for row in counts %}<tr><td>{{ row.class }}</td><td>{{ row.before }}</td><td>{{ row.kept }}</td>
<td>{{ row.flagged }}</td><td>{{ row.removed }}</td></tr>{% endfor %}</table>
<table><tr><th>rule</th><th>decision</th><th>images</th></tr>
{% for row in rules %}<tr><td>{{ row.rule }}</td><td>{{ row.decision }}</td><td>{{ row.images }}</td></tr>
{% endfor %}</table>
<table><tr><th>pairs</th><th></th></tr>{% for kind, count in pair_kinds.items() %}
<tr><td>{{ kind }}</td><td>{{ count }}</td></tr>{% endfor %}
<tr><td>groups kept</td><td>{{ groups }}</td></tr></table>
{% for section in sections %}
<h2>{{ section.title }} ({{ section.cards|length }})</h2><div class="cards">
{% for card in section.cards %}<div class="card"><div class="pair">
{% for name in card.names %}{% set told = decisions[name] %}
<figure class="{{ told.decision }}"><img loading="lazy" src="{{ pictures[name] }}" alt="{{ name }}">
<figcaption><b>{{ name }}</b> ({{ told.label }}){% if told.reason %}<br>{{ told.reason }}{% endif %}
<br><select aria-label="Decision on {{ name }}" data-id="{{ name }}" onchange="mark(this)">
<option value="">as decided</option><option>keep</option><option>remove</option>
<option value="regroup">not the same lesion</option></select>
</figcaption></figure>{% endfor %}</div><div class="note">{{ card.caption }}</div></div>
{% endfor %}</div>{% endfor %}
<script>
const chosen = {};
function mark(box) {
  chosen[box.dataset.id] = box.value;
  document.querySelectorAll('select').forEach(b => { if (b.dataset.id === box.dataset.id) b.value = box.value; });
}
function quoted(text) { return '"' + text.replaceAll('"', '""') + '"'; }
function save() {
  const rows = ['image_id,action,group,note'];
  for (const [id, action] of Object.entries(chosen)) if (action)
    rows.push([quoted(id), action, action === 'regroup' ? quoted(id + ' alone') : '', quoted('by hand')].join(','));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([rows.join('\\n') + '\\n'], {type: 'text/csv'}));
  link.download = 'overrides.csv'; link.click();
}
</script></body></html>
""".replace("__STYLE__", _STYLE)

CARDS = (
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
"""
    + _STYLE
    + """
</head><body><h1>{{ title }}</h1>
<table>{% for name, value in figures.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table>
{% for section in sections %}<h2>{{ section.title }} ({{ section.cards|length }})</h2><div class="cards">
{% for card in section.cards %}<div class="card"><div class="pair">
{% for name in card.names %}<figure><img loading="lazy" src="{{ pictures[name] }}" alt="{{ name }}">
<figcaption><b>{{ name }}</b> ({{ labels[name] }})</figcaption></figure>{% endfor %}
</div><div class="note">{{ card.caption }}</div></div>{% endfor %}</div>{% endfor %}
</body></html>
"""
)
