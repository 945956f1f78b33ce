# SPDX-License-Identifier: Apache-2.0
"""lab/reasoner: the task, its files and the exported model's shape. Needs no torch, no GPU."""
from __future__ import annotations

import itertools
import json
import pathlib
import random
import struct
import sys

import pytest

LAB = pathlib.Path(__file__).resolve().parents[2] / "lab" / "reasoner"
sys.path.insert(0, str(LAB))

import countdown as cd  # noqa: E402
import export  # noqa: E402
import problems as drawing  # noqa: E402

NUMBERS, GOAL = [23, 18, 16], 80
TEXT = ("<bos> goal 80 [ 23 18 16 ] plan [ 23 18 16 ] : 23 + 18 = 41 ; 23 - 18 = 5 ; "
        "23 + 16 = 39 ; 23 - 16 = 7 ; 18 + 16 = 34 ; 18 - 16 = 2 ; . 23 + 18 = 41 [ 41 16 ] 41 + 16 = 57 no "
        "41 - 16 = 25 no 23 - 18 = 5 [ 16 5 ] 16 + 5 = 21 no 16 - 5 = 11 no 16 * 5 = 80 yes "
        "ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos>")


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (LAB / "problems" / name).read_text().splitlines()]


def solved(count: int, seed: int, numbers: tuple[int, ...] = (3, 4, 5)):
    rng = random.Random(seed)
    while count:
        problem = cd.sample(rng, rng.choice(numbers))
        chain = cd.solve(*problem)
        if chain:
            count -= 1
            yield *problem, chain


def ends(answer: str) -> bool:
    return cd.check(NUMBERS, GOAL, cd.from_text(answer))


def test_the_golden_chain_is_what_the_grammar_says():
    chain = cd.solve(NUMBERS, GOAL)
    assert cd.to_text(chain.tokens) == TEXT
    runs = [(cd.KINDS[k], len(list(g))) for k, g in itertools.groupby(chain.kinds)]
    assert runs == [("P", 8), ("R", 44), ("E", 47), ("R", 15)]


def test_a_chain_is_deterministic_whatever_the_order_of_the_numbers_or_the_cache():
    for numbers, goal, chain in solved(20, 1):
        again = cd.solve(numbers[::-1], goal)
        cd._triples.clear()
        assert chain == again == cd.solve(numbers, goal)


def test_kinds_align_with_tokens():
    word = cd.ID
    for numbers, goal, chain in solved(40, 2):
        assert len(chain.tokens) == len(chain.kinds) <= cd.CHAIN_TOKENS_MAX
        assert chain.tokens[:chain.prompt_tokens] == cd.prompt_ids(numbers, goal)
        assert set(chain.kinds[chain.prompt_tokens:]) <= {1, 2, 3}
        for token, kind in zip(chain.tokens, chain.kinds):
            if token in (word["plan"], word["try"], word["yes"], word["ans"], word["<eos>"]):
                assert cd.KINDS[kind] == "R"
            elif token in (word["dead"], word["back"]):
                assert cd.KINDS[kind] == "T"
            elif token == word["no"]:
                assert cd.KINDS[kind] == "E"


def test_a_transition_reviews_the_steps_tried_and_the_next_try_follows_the_plan():
    for _, _, chain in solved(10, 3, (4,)):
        words = cd.to_text(chain.tokens).split(" ")
        text = " ".join(words)
        plan = text[text.index(":") + 2:text.index(" .")].split(" ; ")
        plan[-1] = plan[-1].removesuffix(" ;")
        tries = [t.split(" got")[0] for t in text.split(" try ")[1:]]
        assert tries == plan[:len(tries)]
        reviews = [r[r.index(":") + 2:r.index(" ; .")].split(" ; ")
                   for r in text.split(" back ")[1:]]
        assert reviews == [plan[:i + 1] for i in range(len(tries) - 1)]


def test_the_limit_counts_the_whole_chain():
    numbers, goal, chain = next(solved(1, 4, (5,)))
    assert cd.solve(numbers, goal, len(chain.tokens)) == chain
    assert cd.solve(numbers, goal, len(chain.tokens) - 1) is None


def test_a_problem_without_a_solution_has_no_chain():
    assert cd.solve([1, 1, 1, 1], 99) is None


def test_the_checker_accepts_every_reference_answer():
    for numbers, goal, chain in solved(60, 5):
        assert cd.check(numbers, goal, chain.tokens)
        assert cd.check(numbers, goal, chain.tokens[chain.prompt_tokens:])


@pytest.mark.parametrize("answer", [
    "ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos>",
    "ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos> ans 1 <pad>",
])
def test_the_checker_accepts(answer):
    assert ends(answer)


@pytest.mark.parametrize("answer", [
    "ans 24 - 19 = 5 ; 16 * 5 = 80 ; <eos>",  # numbers that are not there
    "ans 23 - 18 = 6 ; 16 * 5 = 80 ; <eos>",  # wrong arithmetic
    "ans 23 - 18 = 5 ; 16 * 6 = 80 ; <eos>",
    "ans 23 - 18 = 5 ; 16 * 5 = 81 ; <eos>",
    "ans 16 + 16 = 32 ; 32 + 23 = 55 ; <eos>",  # a number used twice
    "ans 23 - 18 = 5 ; 18 * 5 = 90 ; <eos>",  # a number used again
    "ans 23 - 18 = 5 ; 16 + 5 = 21 ; <eos>",  # not the goal
    "ans 23 - 18 = 5 ; 5 * 16 = 80 ; <eos>",  # x < y
    "ans 16 * 5 = 80 ; 23 - 18 = 5 ; <eos>",  # uses a result before it exists
    "ans 23 - 18 = 5 ; <eos>",  # too few steps
    "ans 23 - 18 = 5 ; 16 * 5 = 80 ; 80 / 80 = 1 ; <eos>",  # too many
    "ans 23 - 18 = 5 ; 16 * 5 = 80 ;",  # truncated
    "ans 23 - 18 = 5 ; 16 * 5 = 80 <eos>",  # the last ; is missing
    "ans yes 23 - 18 = 5 ; 16 * 5 = 80 ; <eos>",  # something in between
    "ans 1 ; ans 23 - 18 = 5 ; 16 * 5 = 80 ; <eos>",  # the first ans counts
    "23 - 18 = 5 ; 16 * 5 = 80 ; <eos>",  # no ans
    "ans 23 no 18 = 5 ; 16 * 5 = 80 ; <eos>",  # not an operation
    "ans [ - 18 = 5 ; 16 * 5 = 80 ; <eos>",  # not a number
    "",
])
def test_the_checker_rejects(answer):
    assert not ends(answer)


def test_the_checker_survives_any_tokens():
    rng = random.Random(6)
    for numbers, goal, chain in solved(20, 7, (4,)):
        tokens = list(chain.tokens)
        for _ in range(50):
            broken = list(tokens)
            broken[rng.randrange(len(tokens) - 19, len(tokens) - 1)] = rng.randrange(128)
            assert cd.check(numbers, goal, broken) == (broken == tokens)


def test_training_never_draws_a_held_out_problem_and_held_out_files_hold_only_those():
    listed = read("heldout.jsonl") + read("short.jsonl") + read("calibration.jsonl")
    assert all(cd.is_held_out(p["numbers"], p["goal"]) for p in listed)
    assert len({(p["goal"], *sorted(p["numbers"])) for p in listed}) == 512 + 64 + 64
    np = pytest.importorskip("numpy", reason="numpy makes the training batches")
    import data
    prompts = set()
    for tokens in _packed(data, np):
        words = cd.to_text(tokens).split("<bos> goal ")[1:]
        prompts |= {w[:w.index("]")] for w in words if "]" in w}
    assert len(prompts) > 20
    for prompt in prompts:
        goal, numbers = prompt.split(" [ ")
        assert not cd.is_held_out(list(map(int, numbers.split())), int(goal))


def _packed(data, np):
    packer = data.Packer(data.SHORT, 1)
    inputs, targets = packer.batch()
    assert inputs.shape == (data.TOKENS_PER_BATCH // data.SHORT, data.SHORT + 1)
    hidden = targets == cd.PAD
    assert (targets[~hidden] == inputs[~hidden]).all() and not (inputs == cd.PAD).any()
    assert hidden[inputs == cd.BOS].all() and hidden[inputs == cd.ID["goal"]].all()
    assert not hidden[inputs == cd.ID["plan"]].any()
    return [row.tobytes() for row in inputs]


@pytest.mark.parametrize("name,count,low,high", [
    ("heldout.jsonl", 512, 400, 16384), ("short.jsonl", 64, 400, 2000),
    ("calibration.jsonl", 64, 400, 16384)])
def test_problem_files_agree_with_the_generator(name, count, low, high):
    listed = read(name)
    assert len(listed) == count == len({p["id"] for p in listed})
    for p in listed:
        chain = cd.solve(p["numbers"], p["goal"])
        assert low <= len(chain.tokens) == p["chain_tokens"] <= high
        assert cd.from_text(p["prompt"]) == list(chain.tokens[:chain.prompt_tokens])


def test_the_smaller_problem_files_are_what_problems_py_draws():
    taken = {(p["goal"], *p["numbers"]) for p in read("heldout.jsonl")}
    assert drawing.draw(drawing.SHORT, 2, "short", taken) == read("short.jsonl")
    assert drawing.draw(drawing.CALIBRATION, 3, "calibration", taken) == read("calibration.jsonl")


def test_any_prefix_of_the_held_out_set_has_the_mix_of_the_whole():
    lengths = [p["chain_tokens"] for p in read("heldout.jsonl")]
    middle = [1000 <= n < 8000 for n in lengths]
    assert sum(middle) / 512 > 0.75
    for size in (32, 64, 128, 256):
        assert abs(sum(middle[:size]) / size - sum(middle) / 512) < 0.1
        assert max(lengths[:size]) > 8000


def test_config_and_tokenizer_are_what_export_writes():
    assert json.loads((LAB / "model" / "config.json").read_text()) == export.config()
    assert json.loads((LAB / "model" / "tokenizer.json").read_text()) == export.tokenizer()
    assert len(cd.VOCAB) == len(cd.ID) == 128


def test_the_weights_have_the_shape_of_the_config_and_fit_the_size_limit():
    file = LAB / "model" / "model.safetensors"
    if not file.exists():
        pytest.skip("no trained weights in this checkout")
    assert file.stat().st_size <= 16 * 2**20
    with file.open("rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    header.pop("__metadata__", None)
    c = export.config()
    d, ff = c["hidden_size"], c["intermediate_size"]
    q, kv = (c[n] * c["head_dim"] for n in ("num_attention_heads", "num_key_value_heads"))
    layer = {"input_layernorm": [d], "post_attention_layernorm": [d],
             "self_attn.q_proj": [q, d], "self_attn.k_proj": [kv, d], "self_attn.v_proj": [kv, d],
             "self_attn.o_proj": [d, q], "mlp.gate_proj": [ff, d], "mlp.up_proj": [ff, d],
             "mlp.down_proj": [d, ff]}
    expected = {f"model.layers.{i}.{name}.weight": shape
                for i in range(c["num_hidden_layers"]) for name, shape in layer.items()}
    expected |= {"model.embed_tokens.weight": [c["vocab_size"], d], "model.norm.weight": [d]}
    assert {n: t["shape"] for n, t in header.items()} == expected
    assert {t["dtype"] for t in header.values()} == {"BF16"}


def test_the_reference_was_recorded_from_held_out_prompts():
    file = LAB / "reference" / "logits.json"
    if not file.exists():
        pytest.skip("no recorded reference in this checkout")
    assert file.stat().st_size <= 2 * 2**20
    cases = json.loads(file.read_text())["cases"]
    assert len(cases) == 2
    prompts = {p["prompt"]: p for p in read("heldout.jsonl")}
    for case in cases:
        p = prompts[case["prompt"]]
        chain = cd.solve(p["numbers"], p["goal"]).tokens
        fed = case["prompt_ids"] + case["chain_ids"]
        assert fed == list(chain[:len(fed)])
        assert case["greedy_ids"] == list(chain[len(case["prompt_ids"]):][:64])
        assert case["logits"][0]["position"] == len(case["prompt_ids"]) - 1
        for row in case["logits"]:
            assert fed[row["position"]] == row["token_fed"] and len(row["values"]) == 128
            assert row["values"].index(max(row["values"])) == chain[row["position"] + 1]


def test_the_tokenizer_agrees_with_the_vocabulary_and_adds_nothing():
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    tokenizer = tokenizers.Tokenizer.from_file(str(LAB / "model" / "tokenizer.json"))
    for numbers, goal, chain in solved(5, 8):
        text = cd.to_text(chain.tokens)
        assert tokenizer.encode(text).ids == list(chain.tokens)
        assert tokenizer.decode(list(chain.tokens), skip_special_tokens=False) == text
