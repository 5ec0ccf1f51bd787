"""Rule ``provenance``: put all manifests of a run into one readable page."""

from pathlib import Path

from gateau.command import argument_parser, run
from gateau.files import write_text
from gateau.provenance import read_manifest
from gateau.reports import markdown_table


def main() -> None:
    """Write the page."""
    parser = argument_parser(__doc__)
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="manifest.json of each folder")
    parser.add_argument("--output", required=True, help="output: the page, in Markdown")
    args = parser.parse_args()
    manifests = [read_manifest(path) for path in args.manifests]
    lines = ["# Where these results come from", ""]
    rows = []
    for one in manifests:
        git = one["git"] or {}
        commit = f"{git['commit'][:12]}{', modified' if git['modified'] else ''}" if git else "–"
        size = sum(entry["n_bytes"] for entry in one["files"].values())
        cells = [one["folder"], one["made"], str(len(one["files"])), f"{size:,}", commit, one["config_sha256"][:12]]
        rows.append(cells)
    titles = ["folder", "made (UTC)", "files", "bytes", "git commit", "config"]
    lines.append(markdown_table(titles, rows, numbers=[2, 3]))
    for title, key in (("Versions", "versions"), ("Models", "models"), ("Raw data", "data")):
        found = {name: value for one in manifests for name, value in one[key].items()}
        lines += ["", f"## {title}", "", *(f"- {name}: {_text(value)}" for name, value in sorted(found.items()))]
    machines = sorted({line for one in manifests for line in one["environments"]})
    lines += ["", "## Machines", "", *(f"- {line}" for line in machines), ""]
    if servers := sorted({line for one in manifests for line in one.get("servers", ())}):
        lines += ["## Servers that jobs started", "", *(f"- {line}" for line in servers), ""]
    lines += ["`python scripts/verify.py <results_dir>` compares every file with its manifest.", ""]
    write_text(args.output, "\n".join(lines))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


if __name__ == "__main__":
    run(main)
