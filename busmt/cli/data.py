"""`busmt data`: public cohorts."""

from __future__ import annotations

from pathlib import Path

import click

from busmt.cli.common import json_option, print_json, progress, say


@click.group()
def data() -> None:
    """Download public cohorts.

    \b
    Examples:
      busmt data download busi
      busmt data download bus-bra --to cohorts
    """


@data.command()
@click.argument("cohort", type=click.Choice(["busi", "bus-bra"]))
@click.option("--to", type=click.Path(path_type=Path), default="data", show_default=True, help="Folder for cohorts.")
@click.option("--url", help="Another address of the same archive. Default: the official one.")
@click.option("--sha256", help='Checksum to expect instead of the known one; "none" relies on the content alone.')
@click.option("--keep-archive", is_flag=True, help="Leave the zip file beside the folder.")
@click.option("--timeout", type=click.FloatRange(1), default=30.0, show_default=True, help="Seconds without a byte.")
@click.option("--insecure", is_flag=True, help="Do not verify the server's certificate; the checksum still is.")
@json_option
def download(
    cohort: str,
    to: Path,
    url: str | None,
    sha256: str | None,
    keep_archive: bool,
    timeout: float,
    insecure: bool,
    as_json: bool,
) -> None:
    """Download BUSI or BUS-BRA from its official address, check it and unpack it.

    An interrupted download goes on when the command is run again. The checksum and the number of images and
    masks of each class are compared with those known; nothing appears under the final name before that.

    \b
    Examples:
      busmt data download busi
      busmt data download bus-bra --to cohorts
      busmt data download busi --url http://mirror.example/Dataset_BUSI.zip
    """
    from busmt.data.download import SOURCES
    from busmt.data.download import download as fetch_cohort
    from busmt.data.fetch import FetchPolicy

    source = SOURCES[cohort]
    say(source.title)
    for what, text in (("page", source.page), ("terms", source.terms), ("cite", source.citation)):
        say(f"{what}: {text}")
    policy = FetchPolicy(timeout=timeout, verify_tls=not insecure)
    try:
        result = fetch_cohort(
            cohort, to, url=url, sha256=sha256, keep_archive=keep_archive, policy=policy, stage=progress
        )
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        raise
    if as_json:
        print_json({
            "cohort": source.name, "folder": str(result.folder), "counts": result.counts, "url": result.url,
            "sha256": result.sha256, "checksum_known": result.checksum_known, "checksum_origin": source.checksum_origin,
            "page": source.page, "terms": source.terms, "citation": source.citation,
        })  # fmt: skip
        return
    if result.url is None:
        say(f"{result.folder} is there already, with all its images; nothing was downloaded")
    elif result.checksum_known:
        say(f"sha256 {result.sha256}: as expected")
    else:
        say(f"sha256 {result.sha256}: compared with nothing; the content is as published")
    say(f"{sum(result.counts.values())} images in {result.folder}; train with: busmt train --data {result.folder}")
