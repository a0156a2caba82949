// What the app needs is loaded: from now on the page may not connect to anything, not even to its own server.
// Policies add up and can only become stricter, so no script can take this one back.

const ALLOWED = { "style-src": ["app.css"], "img-src": ["icon.svg", "icon-180.png"], "manifest-src": ["app.webmanifest"] };

export function lockPage() {
  const rules = Object.entries(ALLOWED).map(([rule, names]) => [rule, ...names.map((name) => new URL(name, location.href))]);
  const policy = [["default-src", "'none'"], ...rules, ["worker-src", "'self'"], ["base-uri", "'none'"], ["form-action", "'none'"]];
  const content = policy.map((rule) => rule.join(" ")).join("; ");
  document.head.append(Object.assign(document.createElement("meta"), { httpEquiv: "Content-Security-Policy", content }));
}
