"""Faults: damaged inputs and kills, ``python -m benchmarks.faults.run [--only inputs|kills] [--fresh]``.

Goes on where it stopped: what has been tried is in ``results.json`` beside this file, and what failed there is tried
again. Prints each case, and writes the tables to ``results.md``. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.faults import inputs, kills
from benchmarks.faults.damage import cases

from avsl.files import project_root, write_json, write_text
from avsl.tracking.runs import git_commit

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results.json"
N_INPUTS, N_KILLS = 500, 20
_VERDICTS = ("used", "told", "quarantined", "refused", "lost", "crash", "hang", "memory")

Records = dict[str, dict[str, Any]]


def _run_inputs(records: Records, commit: str) -> None:
    import mlflow  # noqa: F401  # before the commands' processes are forked, which then need not import it

    with tempfile.TemporaryDirectory() as folder:
        tried = inputs.Inputs(Path(folder))
        for case in cases(N_INPUTS):
            known = records.get(str(case.number))
            if known and not known["failed"]:
                continue
            outcome = tried.run(case)
            records[str(case.number)] = {
                "kind": case.kind,
                "what": f"{case.command} {case.data}/{case.file} {case.damage.__name__}",
                "verdict": outcome.verdict,
                "failed": outcome.failed,
                "seconds": round(outcome.seconds, 2),
                "peak_mb": round(outcome.peak / 1e6),
                "said": _said(outcome),
                "commit": commit,
            }
            print(case.number, *list(records[str(case.number)].values())[1:6], flush=True)
            _keep(records, "inputs")


def _said(outcome: inputs.Outcome) -> str:
    """What is kept of a sentence or a traceback, without where this campaign lay."""
    kept = outcome.failed or outcome.verdict == "refused"
    return re.sub(r"[^\s\"':]*/case-\d+/", "", outcome.said[-400:]) if kept else ""


def _run_kills(records: Records, commit: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tried = kills.Kills(Path(folder))
        for phase, seed in kills.cases(N_KILLS):
            known = records.get(str(seed))
            if known and not known["problems"]:
                continue
            killed = tried.run(phase, seed)
            records[str(seed)] = {
                "phase": killed.phase,
                "at": round(killed.at, 3),
                "seconds": round(killed.seconds, 1),
                "problems": list(killed.problems),
                "commit": commit,
            }
            print("kill", seed, *records[str(seed)].values(), flush=True)
            _keep(records, "kills")


def _keep(records: Records, part: str) -> None:
    """Keep what has been tried so far."""
    kept = _read()
    kept[part] = records
    write_json(_RESULTS, kept)
    write_text(_HERE / "results.md", _tables(kept))


def _read() -> dict[str, Records]:
    found: dict[str, Records] = json.loads(_RESULTS.read_bytes()) if _RESULTS.is_file() else {}
    return {"inputs": found.get("inputs", {}), "kills": found.get("kills", {})}


def _tables(kept: Mapping[str, Records]) -> str:
    tried = list(kept["inputs"].values())
    lines = [
        "# Faults",
        "",
        f"`python -m benchmarks.faults.run`, {_commits(kept)}.",
        "",
        f"## {len(tried)} of {N_INPUTS} damaged inputs",
        "",
        "*used*: harmless damage; *told*: a result, and a sentence on what is missing or broken; *quarantined*: the "
        "row is in `quarantine.csv` with its reason, and all others are there; *refused*: one sentence and exit code "
        "2. The last four columns of counts must be 0: a listed row that is nowhere, anything else than a sentence, "
        f"more than {inputs.LIMIT_S} s of the CPU or {inputs.WAIT_S} s by the clock, more than "
        f"{inputs.LIMIT_BYTES / 1e9:g} GB. Seconds are the clock's, beside other work on the machine.",
        "",
        f"| damaged | n | {' | '.join(_VERDICTS)} | longest, s | greatest memory, MB |",
        "| --- " * (len(_VERDICTS) + 4) + "|",
    ]
    for kind in [*sorted({record["kind"] for record in tried}), "all"]:
        of = [record for record in tried if kind in (record["kind"], "all")]
        if not of:
            continue
        counts = Counter(record["verdict"] for record in of)
        worst = f"{max(record['seconds'] for record in of):.1f} | {max(record['peak_mb'] for record in of)}"
        lines.append(f"| {kind} | {len(of)} | {' | '.join(str(counts[verdict]) for verdict in _VERDICTS)} | {worst} |")
    failed = [f"- {r['what']}: {r['verdict']}: {' '.join(r['said'].split())}" for r in tried if r["failed"]]
    lines += ["", *failed, "", *_kill_table(list(kept["kills"].values()))]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _kill_table(tried: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"## {len(tried)} of {N_KILLS} kills",
        "",
        "SIGKILL to the command's process group at a random moment; then the same command again (a sweep with "
        "`tune.resume=true`, or without it where that says that nothing had been begun). It must end with the bits of "
        "an undisturbed run (prepared files; weights and curves; the registry's versions and champion; trials with "
        "their scores), and leave no process, no held lock, no second version of one model and no half-written file.",
        "",
        "| killed while | kills | moments, s | as undisturbed |",
        "| --- | --- | --- | --- |",
    ]
    for phase in kills.PHASES:
        of = [record for record in tried if record["phase"] == phase.name]
        moments = ", ".join(f"{record['seconds']:.1f}" for record in of)
        lines.append(f"| {phase.name} | {len(of)} | {moments} | {sum(not record['problems'] for record in of)} |")
    problems = [f"- {r['phase']} at {r['seconds']} s: {' '.join('; '.join(r['problems']).split())}" for r in tried]
    return [*lines, "", *(line for line, r in zip(problems, tried, strict=True) if r["problems"])]


def _commits(kept: Mapping[str, Records]) -> str:
    counts = Counter(record["commit"] for part in kept.values() for record in part.values())
    return "cases by commit: " + ", ".join(f"{commit[:7]} {n}" for commit, n in counts.most_common())


def main() -> None:
    """Run what has not been run, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("inputs", "kills"), help="one of the two campaigns")
    parser.add_argument("--fresh", action="store_true", help="forget what has been tried")
    options = parser.parse_args()
    kept: dict[str, Records] = {"inputs": {}, "kills": {}} if options.fresh else _read()
    commit = git_commit(project_root())
    if options.only != "kills":
        _run_inputs(kept["inputs"], commit)
    if options.only != "inputs":
        _run_kills(kept["kills"], commit)


if __name__ == "__main__":
    main()
