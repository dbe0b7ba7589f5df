"""A run that `mona-peft train --push_to_hub` has pushed is loaded by the name of its repository, anywhere."""

from tests.hub_server import USER, hub_server
from tests.test_hub import run_client
from tests.tiny_runs import arguments

TASK = "image-classification"
PUSH_AND_LOAD = f"""
import json, mona_peft, mona_peft.cli, torch
assert mona_peft.cli.run(ARGUMENTS) == 0
run = mona_peft.load("{USER}/colours")
with torch.no_grad():
    logits = run.model(torch.ones(1, 3, 64, 64)).logits
local = mona_peft.load("FOLDER")
with torch.no_grad():
    assert torch.equal(local.model(torch.ones(1, 3, 64, 64)).logits, logits)
print(json.dumps([run.labels, run.task.command, type(run.model).__name__]))
"""


def test_pushed_run_is_loaded_by_its_name(tmp_path):
    folder = tmp_path / "run"
    options = ["--push_to_hub", "--hub_model_id", f"{USER}/colours", "--output_dir", str(folder)]
    with hub_server() as (hub, endpoint):
        argv = repr(["train", TASK, *arguments(TASK), *options])
        code = PUSH_AND_LOAD.replace("ARGUMENTS", argv).replace("FOLDER", str(folder))
        printed = run_client(endpoint, tmp_path, "-c", code)
        pushed = hub.repos[f"{USER}/colours"]
    assert {"run.json", "adapter_model.safetensors", "preprocessor_config.json"} <= pushed.keys()
    card = pushed["README.md"].decode()
    assert f"mona_peft.load('{USER}/colours')" in card
    assert str(folder) not in card
    assert printed.splitlines()[-1] == '[["blue", "green", "red"], "image-classification", "PeftModel"]'
