"""Merged and exported models as Transformers loads them: nothing missing, nothing left over, the values that the method asks for, and
the loss that `ingot evaluate` finds. Run by transformers.sh in an empty folder; INGOT is the program, the argument the folder tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers

TESTS = Path(sys.argv[1])
EXPERTS = TESTS / "experts"
torch.set_num_threads(1)


def ingot(*words):
    subprocess.run([os.environ["INGOT"], *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def run_job(models, steps):
    paths = " ".join(f'{name} = "{path}";' for name, path in models.items())
    Path("job.cfg").write_text(f"models = {{ {paths} }};\nsteps = ( {', '.join(steps)} );\n")
    ingot("run", "--quiet", "job.cfg")


def load(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    for kind, names in info.items():
        assert not names, (folder, kind, names)
    return model.eval()


def check_values(merged, models, mix):
    states = [model.state_dict() for model in models]
    for name, found in merged.state_dict().items():
        expected = mix(*(state[name].float()[: found.shape[0]] for state in states)).to(found.dtype)
        assert torch.equal(found, expected), name


def main():
    # Shards with an index; tied embeddings.
    run_job({name: EXPERTS / name for name in ("add", "sort")},
            ['{ type = "merge"; method = "linear"; models = ( "add", "sort" ); parameters = { weight = 0.5; };'
             ' output = "linear"; shard_size = 400000; }',
             '{ type = "evaluate"; models = ( "linear" ); data = { d = "tokens.u16"; }; window = 8; output = "scores.json"; }'])
    assert len(list(Path("linear").glob("*.safetensors"))) > 1
    merged = load("linear")
    check_values(merged, [load(EXPERTS / "add"), load(EXPERTS / "sort")], lambda a, b: (a + b) / 2)
    assert transformers.GenerationConfig.from_pretrained("linear").eos_token_id == 0
    tokens = [transformers.AutoTokenizer.from_pretrained(folder)("1+2=").input_ids for folder in (EXPERTS / "base", "linear")]
    assert tokens[0] == tokens[1] and len(tokens[0]) > 2
    assert merged.generate(torch.tensor([tokens[0]]), max_new_tokens=3, do_sample=False).shape[1] > len(tokens[0])

    # The loss of the model that Transformers has loaded is that of ingot's own runtime.
    scores = json.loads(Path("scores.json").read_text())["scores"]["linear"]["d"]
    with torch.no_grad():
        loss = merged.float()(input_ids=IDS.view(-1, 8), labels=IDS.view(-1, 8)).loss.item()
    assert abs(loss / scores["nll"] - 1) < 1e-4, (loss, scores)

    # From .h5 back to a directory, GPT-2.
    ingot("import", TESTS / "workers/model/reference/gpt2", "gpt2.h5")
    ingot("export", "gpt2.h5", "gpt2")
    check_values(load("gpt2"), [load(TESTS / "workers/model/reference/gpt2")], lambda a: a)

    # Cropped embeddings and a head of its own; the config has the new size.
    golden = TESTS / "golden/embeddings"
    run_job({"a": golden / "a", "b": golden / "b"},
            ['{ type = "merge"; method = "linear"; models = ( "a", "b" ); parameters = { weight = 0.5; };'
             ' embeddings = "crop"; output = "cropped"; }'])
    cropped = load("cropped")
    assert cropped.config.vocab_size == cropped.get_input_embeddings().weight.shape[0] == 7
    check_values(cropped, [load(golden / "a"), load(golden / "b")], lambda a, b: (a + b) / 2)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: 3 models load as written")


IDS = torch.arange(64) * 7 % 79
Path("tokens.u16").write_bytes(IDS.to(torch.int16).numpy().astype("<u2").tobytes())
main()
