"""`ladm score --job`: what it shows, asks, starts and refuses, on the fake Hub's jobs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from cli.printed import parsed
from conftest import tiny_model
from huggingface_hub import HfApi
from launches import parquet
from typer.testing import CliRunner

from fake_hub import FakeHub
from fake_hub.fixtures import fake_hub, hub_process  # noqa: F401
from ladm_hf.cli import jobs as jobs_command
from ladm_hf.cli.app import app
from ladm_hf.cli.score import rerun_command
from ladm_hf.data.object_store import storage_at
from ladm_hf.runs import job_spec
from ladm_hf.runs import jobs as run_jobs
from ladm_hf.runs.chunk_scorer import ChunkScorer
from ladm_hf.runs.progress import run_status
from ladm_hf.text import counted

pytestmark = pytest.mark.skipif(
    tuple(map(int, huggingface_hub.__version__.split(".")[:2])) < (1, 21), reason="--job needs huggingface_hub 1.21"
)
# of any store; nothing but this process sees it
RUN = "memory://scored/run"
PACKAGE = ("--package", "https://example.org/ladm_hf.zip")


@pytest.fixture
def hub(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with the private data set tester/pool, of 40 documents of 4,000 letters."""
    monkeypatch.setattr(run_jobs, "FIRST_WAIT", 0.25)
    monkeypatch.delenv("LADM_MODEL", raising=False)
    pq.write_table(
        pa.table({"text": ["abcd" * 1000] * 40}),
        tmp_path / "rows.parquet",
        use_dictionary=False,
        write_statistics=False,
    )
    api = HfApi()
    api.create_repo("tester/pool", repo_type="dataset", private=True)
    api.upload_file(
        path_or_fileobj=tmp_path / "rows.parquet",
        path_in_repo="data/train-00000-of-00001.parquet",
        repo_id="tester/pool",
        repo_type="dataset",
    )
    # its log begins here
    fake_hub.faults()
    yield fake_hub
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def launch(*options: str, data: str = "tester/pool", output: str = RUN, flavor: str = "h200") -> Any:
    return CliRunner().invoke(app, ["score", data, output, "--job", flavor, *PACKAGE, *options])


def refusal(done: Any) -> str:
    """The one line of a command that refused and started nothing."""
    assert done.exit_code == 1, done.output
    lines = done.output.splitlines()
    assert len(lines) == 1, done.output
    return lines[0]


def sent(hub: FakeHub) -> list[dict[str, Any]]:
    return [job["sent"] for job in hub.jobs()]


def test_jobs_are_started_with_work_hours_and_price_shown(hub: FakeHub) -> None:
    done = launch("--jobs", "3", "--yes")
    assert done.exit_code == 0, done.output
    assert "work: 40 documents, about 40.0k tokens" in done.output
    assert "on: 3 jobs on h200, 1x Nvidia H200 (141 GB), 23 vCPU, 256 GB, $5.00 an hour each" in done.output
    # three started minutes at 5 dollars an hour
    assert "under 0.1 GPU hours" in done.output
    assert "by 3 jobs, $0.25" in done.output
    assert "what finding token ids takes, from a run of ladm-nano from text" in done.output
    assert done.output.count("started http") == 3
    assert len(hub.jobs()) == 3
    assert len({job["labels"]["ladm-job"] for job in hub.jobs()}) == 3
    assert {job["labels"]["name"] for job in hub.jobs()} == {"ladm-scored-run"}
    assert {(each["flavor"], each["timeoutSeconds"]) for each in sent(hub)} == {("h200", 3600)}


def test_the_token_is_a_secret_and_nowhere_else(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    done = launch("--yes", "--secret", "AWS_SECRET_ACCESS_KEY")
    (job,) = sent(hub)
    assert job.pop("secrets") == {"HF_TOKEN": hub.token, "AWS_SECRET_ACCESS_KEY": "very-secret"}
    assert job["environment"].keys() == {*job_spec.ENVIRONMENT, "LADM_COMMAND", "HF_ENDPOINT"}
    for value in (hub.token, "very-secret"):
        assert value not in str(job)
        assert value not in done.output
        assert value not in launch("--dry-run", "--jobs", "2", "--secret", "AWS_SECRET_ACCESS_KEY").output
    assert (
        "would show a token"
        in launch("--package", f"https://example.org/a.zip?k={hub.token}", "--yes", output=RUN + "2").output
    )
    assert len(hub.jobs()) == 1


def test_a_job_scores_with_all_options_given(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "it's mine.json"
    config.write_text('{"heads": [[5, 2]], "span_length": 64}')
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"split": "train", "text_column": "text", "limit": 7}))
    monkeypatch.setenv("LADM_MODEL", "ladm-nano")
    options = ["--options", str(file), "--config", str(config), "--d-afs", "2", "--signals", "compression"]
    done = launch("--yes", *options, "--chunks", "9", "--scores-only", "--dtype", "float16")
    assert done.exit_code == 0, done.output
    (job,) = sent(hub)
    bash, _, script = job["command"]
    assert bash == "bash"
    install, write, run = script.split(" && ")
    assert shlex.split(install)[-1] == PACKAGE[1]
    python, score = run.removeprefix("exec ").split(" -m ladm_hf ")
    assert python == "python"
    name, values = parsed(f"ladm {score}")
    assert name == "score"
    expected = {
        "input": "tester/pool", "output": RUN, "model": "ladm-nano", "split": "train", "limit": 7, "d_afs": 2,
        "signals": "compression", "chunks": 9, "scores_only": True, "dtype": "float16",
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected
    assert values["job"] is None
    # the file of this machine is written in the job
    written = subprocess.run(
        ["bash", "-c", f"{write.rpartition('>')[0]}"], env=job["environment"], capture_output=True, text=True
    )
    assert yaml.safe_load(written.stdout) == {"heads": [[5, 2]], "span_length": 64}
    assert write.endswith(values["config"])


def test_several_gpus_share_a_job_by_torchrun(hub: FakeHub) -> None:
    assert launch("--yes", "--signals", "compression", flavor="l4x4").exit_code == 0
    (job,) = sent(hub)
    # torchrun takes --signals for its own
    assert "exec torchrun --nproc_per_node 4 -m ladm_hf score tester/pool" in job["command"][2]
    assert "--add-signals compression" in job["command"][2]


def test_what_a_job_records_resumes_the_run_by_jobs(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    launch("--yes", "--jobs", "2", "--limit", "9")
    command = sent(hub)[0]["environment"]["LADM_COMMAND"]
    name, values = parsed(command)
    assert (name, values["job"], values["jobs"], values["limit"]) == ("score", "h200", 2, 9)
    assert not values["yes"]
    monkeypatch.setenv("LADM_COMMAND", command)
    assert rerun_command(parsed(f"ladm score tester/pool {RUN}")[1]) == command


def test_a_dry_run_shows_the_jobs_and_starts_none(hub: FakeHub) -> None:
    done = launch("--jobs", "2", "--dry-run", "--timeout", "90m")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("hf jobs run")]
    assert len(lines) == 2
    assert not hub.jobs()
    assert launch("--jobs", "2", "--yes", "--timeout", "90m").exit_code == 0
    job = sent(hub)[0]
    assert job["timeoutSeconds"] == 5400
    # the Hub's own client understands each line as what is started, but for the number of the job
    hf = [
        str(Path(sys.executable).with_name("hf")),
        *shlex.split(lines[0])[1:3],
        "--dry-run",
        *shlex.split(lines[0])[3:],
    ]
    read = subprocess.run(hf, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=True).stdout
    shown, words = " ".join(read.split()), shlex.split(lines[0])
    assert f"image {job['dockerImage']} command {shlex.join(job['command'])} flavor h200 timeout 90m env" in shown
    assert "secrets HF_TOKEN=*** labels" in shown
    for name, value in [*job["environment"].items(), *job["labels"].items()]:
        assert f"{name}=" in shown
        assert name == "ladm-job" or f"{name}={value}" in words


def test_an_estimate_of_jobs_is_a_dry_run(hub: FakeHub) -> None:
    shown, estimated = launch("--jobs", "2", "--dry-run"), launch("--jobs", "2", "--estimate")
    assert estimated.exit_code == 0
    assert not hub.jobs()

    def without_numbers(output: str) -> list[str]:
        return [line for line in output.splitlines() if "hf jobs run" not in line]

    assert without_numbers(shown.output) == without_numbers(estimated.output)
    assert estimated.output.count("hf jobs run") == 2


CASCADE = ("--cascade", "ladm-nano", "--cascade-keep", "25%", "--cascade-by", "")


def test_jobs_of_two_passes_show_the_work_and_price_of_both(hub: FakeHub) -> None:
    done = launch("--yes", "--jobs", "2", *CASCADE, "--signals", "context_gain")
    assert done.exit_code == 0, done.output
    assert "work of the first pass: 40 documents, about 40.0k tokens" in done.output
    assert "work of the second pass: 10 documents, about 10.0k tokens" in done.output
    assert "speed of the first pass: " in done.output
    assert "speed of the second pass: " in done.output
    script = sent(hub)[0]["command"][2]
    _, values = parsed("ladm score " + script.rpartition(" -m ladm_hf score ")[2])
    assert (values["cascade"], values["cascade_keep"], values["cascade_by"]) == ("ladm-nano", "25%", "")


def test_of_two_passes_each_counts_what_it_reads_of_long_documents(hub: FakeHub, tmp_path: Path) -> None:
    storage_at("memory://long").upload(parquet(tmp_path / "rows.parquet", 8, words=6000), "rows.parquet")
    options = ["--max-length", "6000", "--cascade-max-length", "3000", *CASCADE]
    done = launch("--yes", *options, data="memory://long/rows.parquet")
    assert done.exit_code == 0, done.output
    assert "work of the first pass: 8 documents, about 24.0k tokens" in done.output
    assert "work of the second pass: 2 documents, about 12.0k tokens" in done.output
    script = sent(hub)[0]["command"][2]
    _, values = parsed("ladm score " + script.rpartition(" -m ladm_hf score ")[2])
    assert values["cascade_max_length"] == 3000


def test_of_two_passes_what_is_left_of_the_one_at_hand_counts(hub: FakeHub, tmp_path: Path) -> None:
    data, options = "memory://pool/rows.parquet", ["--span-length", "16", *CASCADE]
    storage_at("memory://pool").upload(parquet(tmp_path / "rows.parquet", 8, words=600), "rows.parquet")
    done = begin(*CASCADE, data=data)
    assert done.exit_code == 0, done.output
    assert "finished already" in launch("--yes", *options, data=data).output
    other = refusal(launch("--yes", *options, "--cascade-keep", "50%", data=data))
    assert "cascade.keep: '25%' there, '50%' now" in other
    assert "cascade.keep: '25%' there, None now" in refusal(launch("--yes", "--span-length", "16", data=data))
    # as if the second pass had not begun
    storage = storage_at(RUN)
    for names in (storage.entries("data"), storage.entries(".ladm"), ["run.json"]):
        storage.delete(names)
    storage.delete(["first_pass/.ladm/chunks/00001.json"])
    shown = launch("--dry-run", *options, data=data).output
    assert "work of the first pass: 2 documents" in shown
    assert "in 1 chunk left" in shown
    assert "work of the second pass: 2 documents" in shown
    assert "in 4 chunks left" in shown
    message = refusal(launch("--yes", *options, "--span-length", "8", data=data))
    assert f"{RUN}/first_pass holds a run with other settings (config.span_length: 16 there, 8 now)" in message


def test_the_same_command_starts_only_what_is_missing(hub: FakeHub) -> None:
    launch("--jobs", "3", "--yes")
    again = launch("--jobs", "3", "--yes")
    assert again.exit_code == 0
    assert "running already: 3 jobs of 3" in again.output
    assert len(hub.jobs()) == 3
    first, second, _ = (job["id"] for job in hub.jobs())
    hub.change_job(first, "COMPLETED")
    hub.change_job(second, "RUNNING")
    assert launch("--jobs", "3", "--yes").output.count("started http") == 1
    # a run elsewhere and another namespace have their own
    assert launch("--yes", output=RUN + "2").output.count("started http") == 1
    assert launch("--yes", "--namespace", "lab").output.count("started http") == 1
    assert [job["owner"]["name"] for job in hub.jobs()] == ["tester"] * 5 + ["lab"]


def test_a_failed_job_is_shown_with_the_end_of_its_log(hub: FakeHub) -> None:
    launch("--jobs", "2", "--yes")
    first, second = (job["id"] for job in hub.jobs())
    log = [f"line {n}" for n in range(20)] + [f"token {hub.token}", "", "\x1b[31mOutOfMemoryError: \x07boom"]
    hub.change_job(first, "ERROR", message="Job failed with exit code: 1", seconds=700, log=log)
    shown = CliRunner().invoke(app, ["score", "--status", RUN])
    for output in (shown.output, launch("--jobs", "2", "--dry-run").output):
        assert f"job {first} failed after 12 min: Job failed with exit code: 1" in output
        assert "| line 19" in output
        assert "line 9" not in output
        assert "OutOfMemoryError: boom" in output
        assert hub.token not in output
        assert "\x1b" not in output
    assert "jobs of tester: 1 scheduling, 1 error" in shown.output
    assert "no job has begun the run yet" in shown.output
    launch("--jobs", "2", "--yes")
    # what has been replaced is history, what fails since is not
    assert "failed" not in launch("--jobs", "2", "--dry-run").output
    hub.change_job(second, "ERROR", message="Job timeout", seconds=3600)
    later = launch("--jobs", "2", "--dry-run").output
    assert f"job {second} failed after 60 min: Job timeout" in later
    assert first not in later
    assert "its finished chunks are kept; --timeout gives it longer" in later


def test_of_many_failures_a_few_are_shown(hub: FakeHub) -> None:
    launch("--jobs", "5", "--yes")
    for job in hub.jobs():
        hub.change_job(job["id"], "ERROR")
    output = launch("--jobs", "5", "--dry-run").output
    assert output.count("all of its log") == 3
    assert "and 2 more failed: hf jobs ps -a --namespace tester" in output


@pytest.mark.parametrize("kind", ["lost", "lost-504", "late-504", "drop", "503", "429"])
def test_a_lost_answer_starts_no_job_twice(hub: FakeHub, kind: str) -> None:
    hub.faults({"match": "POST /api/jobs/", "kind": kind})
    done = launch("--jobs", "2", "--yes")
    assert done.exit_code == 0, done.output
    assert len(hub.jobs()) == 2
    assert done.output.count("started http") == 2


@pytest.mark.parametrize("kind", ["drop", "403"])
def test_jobs_whose_log_cannot_be_read_are_shown_without_it(hub: FakeHub, kind: str) -> None:
    launch("--yes")
    (job,) = hub.jobs()
    hub.change_job(job["id"], "ERROR", message="Job failed with exit code: 137. Reason: OOMKilled")
    hub.faults({"match": r"GET /api/jobs/.*/logs", "kind": kind, "times": -1})
    shown = CliRunner().invoke(app, ["score", "--status", RUN])
    assert "OOMKilled" in shown.output
    assert "its log cannot be read" in shown.output
    again = launch("--yes")
    assert again.exit_code == 0, again.output
    assert len(hub.jobs()) == 2


@pytest.mark.parametrize(
    ("stage", "message", "said"),
    [
        ("ERROR", "Job evicted: node is not ready", "failed after 5 s: Job evicted: node is not ready"),
        ("CANCELED", None, "1 canceled"),
        ("DELETED", None, "1 deleted"),
    ],
)
def test_a_job_that_ended_however_is_started_again(hub: FakeHub, stage: str, message: str | None, said: str) -> None:
    launch("--yes", "--jobs", "2")
    hub.change_job(hub.jobs()[0]["id"], stage, message=message, seconds=5)
    assert said in CliRunner().invoke(app, ["score", "--status", RUN]).output
    assert "running already: 1 job of 2" in launch("--yes", "--jobs", "2").output
    assert len(hub.jobs()) == 3


@pytest.mark.parametrize(("kind", "said"), [("403", "may not run jobs"), ("402", "has no credit for jobs (402)")])
def test_a_plan_that_ends_between_two_jobs_is_told_and_the_first_is_kept(hub: FakeHub, kind: str, said: str) -> None:
    hub.faults({"match": "POST /api/jobs/", "kind": kind, "at": -1})
    first = launch("--yes", "--jobs", "1")
    assert first.exit_code == 0
    hub.faults({"match": "POST /api/jobs/", "kind": kind, "times": -1})
    done = launch("--yes", "--jobs", "3")
    assert done.exit_code == 1
    assert said in done.output.splitlines()[-1]
    assert len(hub.jobs()) == 1


def test_the_value_of_a_secret_is_in_no_argument(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "very-secret-value")
    for options in (["--text-column", "very-secret-value"], ["--image", "registry/x?very-secret-value"]):
        done = launch("--yes", "--secret", "MY_KEY", *options)
        assert "would show a token or secret" in done.output
        assert "very-secret-value" not in done.output
    assert not hub.jobs()


def test_a_launch_that_fails_on_its_way_says_how_far_it_came(hub: FakeHub) -> None:
    hub.faults({"match": "GET /api/jobs/tester$", "kind": "503"}, {"match": "GET /api/whoami-v2", "kind": "drop"})
    assert launch("--jobs", "1", "--yes").exit_code == 0
    hub.faults({"match": "POST /api/jobs/", "kind": "403", "times": -1})
    assert "the token may not run jobs for 'tester' (403)" in launch("--jobs", "2", "--yes").output.splitlines()[-1]


def test_without_a_terminal_or_a_yes_nothing_is_started(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no terminal to ask on: give --yes, or --dry-run" in refusal(launch())
    assert not hub.log()
    monkeypatch.setattr(jobs_command, "_on_terminal", lambda: True)
    arguments = ["score", "tester/pool", RUN, "--job", "h200", *PACKAGE]
    for answer, exit_code, started in (("n\n", 1, 0), ("\n", 1, 0), ("", 1, 0), ("y\n", 0, 1)):
        done = CliRunner().invoke(app, arguments, input=answer)
        assert done.exit_code == exit_code, done.output
        assert "start 1 job? [y/N]" in done.output
        assert len(hub.jobs()) == started


def test_the_flavors_that_there_are_are_named_with_their_prices(hub: FakeHub) -> None:
    message = refusal(launch("--dry-run", flavor="h100"))
    assert "no flavor 'h100'" in message
    assert "l4x1 ($0.80/h), l4x4 ($3.80/h), h200 ($5.00/h)" in message
    # no CUDA there
    assert "v5e" not in message


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"options": ["--namespace", "acme"]}, "may not run jobs for 'acme' (403)"),
        ({"options": ["--namespace", "poor"]}, "'poor' has no credit for jobs (402)"),
        ({"options": ["--timeout", "soon"]}, "--timeout must be a number with s, m, h or d such as 6h, found 'soon'"),
        ({"options": ["--timeout", "0h"]}, "--timeout must be"),
        ({"options": ["--cascade", "ladm-nano", "--cascade-keep", "20%"]}, "no column 'domain' in this data"),
        ({"options": ["--cascade", ".", "--cascade-keep", "20%"]}, "a job cannot see the calculator '.'"),
        ({"output": "hf://datasets/tester/scored"}, "`ladm publish hf://buckets/tester/scored/output tester/scored`"),
        ({"options": ["--dtype", "float8"], "flavor": "cpu-upgrade"}, "and --job cpu-upgrade has no GPU: name another"),
        ({"options": ["--restart"]}, "--restart does not go with --job"),
        ({"options": ["--secret", "NO_SUCH_NAME"]}, "no environment variable of that name"),
        ({"options": ["--model", "tester/none"]}, "no model 'tester/none' on the Hub"),
        ({"options": ["--model", "."]}, "a job cannot see the calculator '.' on this machine: upload it"),
        ({"data": "s3://key:hush@pool/rows.parquet"}, "would see the credentials in 's3://***@pool/rows.parquet'"),
        ({"output": "s3://key:hush@scored/run"}, "would see the credentials in 's3://***@scored/run'"),
        ({"data": "./pool"}, "a job cannot see './pool' on this machine: upload it"),
        ({"data": "pool/*.parquet"}, "a job cannot see 'pool/*.parquet'"),
        ({"data": "file:///pool"}, "a job cannot see 'file:///pool'"),
        ({"output": "scored"}, "--job needs an OUTPUT that outlives the job, such as hf://buckets/"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(hub: FakeHub, options: dict[str, Any], part: str) -> None:
    arguments = options.pop("options", [])
    assert part in refusal(launch("--yes", *arguments, **options))
    assert not hub.jobs()


def test_a_local_folder_of_the_name_of_a_data_set_is_refused(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tester" / "pool").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "a job cannot see 'tester/pool' on this machine" in refusal(launch("--yes"))


def test_without_a_token_or_with_a_wrong_one(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 20)
    assert "the Hub does not accept the token (401)" in refusal(launch("--yes"))
    monkeypatch.delenv("HF_TOKEN")
    assert "jobs need a token of the Hub: log in with `hf auth login` or set HF_TOKEN" in refusal(launch("--yes"))


def test_a_client_of_the_hub_without_what_is_needed_is_refused(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "__version__", "1.20.3")
    assert "--job needs huggingface_hub 1.21, found 1.20.3: pip install -U huggingface_hub" in refusal(launch("--yes"))


def test_a_version_that_no_registry_has_needs_its_source(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["score", "tester/pool", RUN, "--job", "h200", "--yes"]
    monkeypatch.setattr(job_spec, "__version__", "0.2.0.dev0")
    assert "give --package" in refusal(CliRunner().invoke(app, arguments))
    monkeypatch.setattr(job_spec, "__version__", "0.2.0")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "pip install --quiet ladm-hf==0.2.0 &&" in sent(hub)[0]["command"][2]


def test_the_size_of_a_private_calculator_is_looked_up_without_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    HfApi().create_repo("tester/calculator", private=True)
    HfApi().upload_folder(repo_id="tester/calculator", folder_path=tmp_path / "model")
    done = launch("--yes", "--model", "tester/calculator", "--signals", "context_gain")
    assert done.exit_code == 0, done.output
    # it is so small that the host is slower
    assert "a rough estimate of what finding token ids takes" in done.output
    assert "--model tester/calculator" in sent(hub)[0]["command"][2]
    # the weights stay where they are
    assert not list(Path(os.environ.get("HF_HOME", "/nowhere")).glob("**/tester--calculator/**/model.safetensors"))
    assert all(request["bytes"] < 10_000 for request in hub.log() if request["method"] == "GET")


def test_hardware_that_nothing_was_measured_on_has_a_price_an_hour_and_no_hours(hub: FakeHub) -> None:
    done = launch("--dry-run", flavor="odd")
    assert "$2.00 an hour each" in done.output
    assert "expected: not known" in done.output
    assert "--timeout 12h" in done.output


@pytest.mark.parametrize("option", ["--jobs 2", "--dry-run", "--yes", "--timeout 1h", "--image x", "--secret HOME"])
def test_options_of_jobs_are_refused_where_scoring_would_begin_here(option: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["score", "tester/pool", str(tmp_path / "out"), *option.split()])
    assert f"{option.split()[0]} goes with --job FLAVOR" in refusal(done)
    assert not (tmp_path / "out").exists()


def begin(*options: str, data: str = "tester/pool") -> Any:
    """Scores the data set as a job would."""
    here = ["--span-length", "16", "--quiet", "--device", "cpu", "--chunks", "4"]
    return CliRunner().invoke(app, ["score", data, RUN, *here, *options])


def test_for_a_finished_run_nothing_is_started_and_other_settings_are_refused(hub: FakeHub) -> None:
    done = begin("--limit", "6")
    assert done.exit_code == 0, done.output
    options = ["--yes", "--limit", "6", "--jobs", "3"]
    again = launch(*options, "--span-length", "16")
    assert again.exit_code == 0, again.output
    assert "finished already, so nothing is started" in again.output
    message = refusal(launch(*options, "--span-length", "8", "--scores-only"))
    assert "holds a run with other settings" in message
    assert "config.span_length: 16 there, 8 now" in message
    assert "scores_only: False there, True now" in message
    assert not hub.jobs()


def test_of_a_run_that_stopped_the_chunks_left_count_at_its_own_speed(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, done = ChunkScorer.score, []

    def two_chunks(scorer: Any, *chunk: Any) -> Any:
        if len(done) == 2:
            # a chunk is written while the next one is scored
            while not run_status(RUN).chunks_done:
                time.sleep(0.05)
            raise KeyboardInterrupt
        done.append(chunk)
        return score(scorer, *chunk)

    monkeypatch.setattr(ChunkScorer, "score", two_chunks)
    stopped = begin("--limit", "8")
    assert stopped.exit_code == 130, (stopped.output, stopped.exception)
    finished = run_status(RUN).chunks_done
    assert 1 <= finished <= 2
    left = 4 - finished
    shown = launch("--yes", "--span-length", "16", "--limit", "8", "--jobs", "5")
    assert shown.exit_code == 0, shown.output
    assert f"work: {2 * left} documents, about {2 * left}.0k tokens in {left} chunks left" in shown.output
    assert f"that of {counted(finished, 'finished chunk')}" in shown.output
    # more jobs than chunks would have nothing to do
    assert shown.output.count("started http") == left
    status = CliRunner().invoke(app, ["score", "--status", RUN]).output
    assert f"{finished} of 4 chunks" in status
    assert f"jobs of tester: {left} scheduling" in status
