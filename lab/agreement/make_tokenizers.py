# SPDX-License-Identifier: Apache-2.0
"""Makes the small tokenizers of tests/decode/model/data/tokenizers and their recorded encodings.

    python make_tokenizers.py [--record TOKENIZER_JSON OUT_JSON]

Each is put together from the parts a published family uses, with a vocabulary of 600 trained on the
texts below, so that the cutting rules are those of the family and the file stays small. The texts
hold what breaks tokenizers: runs of blanks, line ends, digits, contractions, composed and decomposed
accents, scripts without blanks, emoji, control characters, special tokens written out, and random
code points. With --record, the same texts are encoded by another tokenizer.json (SmolLM2's).
"""
from __future__ import annotations

import json
import pathlib
import random
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|begin|>", "<|end|>", "<|im_start|>"]
TEXTS = [
    "", " ", "a", "Hello, world!", "  leading and   many    blanks  ", "tabs\tand\nlines\r\nend\n\n\n x",
    "I'm sure they'LL say it's what we'd've done; don't YOU?", "12345 3.14159 1,000,000 0x1F ½ Ⅷ ٣٤",
    "<|begin|>user says <|im_start|>hi<|end|><|end|> tail", "<|im_start", "<think>step</think> two",
    "naïve café — déjà vu", "nai\u0308ve cafe\u0301 A\u030a \u212b \ufb01", "東京都に住んでいます。", "한국어 텍스트",
    "नमस्ते दुनिया", "שלום עולם مرحبا", "👩‍👩‍👧‍👦 🇩🇪 🤷🏽‍♂️ ok", "\u00a0nbsp\u2003em\u3000ideographic\u200bzero",
    "x\x00y\x01z\x7f\x85\x0b\x0c|", "int main() { return a[i]->b != 0 ? *p++ : ~q; }", "e=mc² ∑∫√ ≠ ½",
    "ALLCAPS camelCase snake_case kebab-case", "'''", "\u017f 'ſ x'S", "trailing space ", "\n \n  \n",
    "the theory of the thing that they thought through " * 8, "a" * 300, " " * 200, "ab" * 100 + "\n" * 50]


def random_texts() -> list[str]:
    draw = random.Random(7)
    ranges = [(0x20, 0x7E)] * 6 + [(0, 0x1F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF),
                                   (0x900, 0x97F), (0x2000, 0x206F), (0x3040, 0x30FF),
                                   (0x4E00, 0x4FFF), (0x1F300, 0x1F6FF), (0xE000, 0xE0FF)]
    return ["".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 60)))
            for _ in range(60)]


def byte_level_bpe(parts: list, normalizer=None, ignore_merges=False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>")])
    return tokenizer


def word_level(pre_tokenizer) -> Tokenizer:
    words = ["<unk>", *SPECIAL, "Hello", ",", "world", "!", "a", "the", "theory", "of", "thing",
             "tail", "hi", "says", "user", "Hello,", "world!", "x", "that"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def make() -> dict[str, Tokenizer]:
    byte_level = lambda use_regex: pre_tokenizers.ByteLevel(add_prefix_space=False,
                                                            use_regex=use_regex)
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    made = {
        "gpt2": byte_level_bpe([byte_level(True)]),
        "llama3": byte_level_bpe([split(LLAMA3), byte_level(False)], ignore_merges=True),
        "qwen2": byte_level_bpe([split(QWEN2), byte_level(False)], normalizers.NFC()),
        "smollm2": byte_level_bpe([pre_tokenizers.Digits(True), byte_level(True)]),
        "digits_removed": byte_level_bpe([pre_tokenizers.Digits(False),
                                          pre_tokenizers.Split(" ", "removed"), byte_level(True)]),
        "word_level_split": word_level(pre_tokenizers.WhitespaceSplit()),
        "word_level": word_level(pre_tokenizers.Whitespace()),
    }
    made["llama3"].post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A <|end|>",
                                      special_tokens=[("<|begin|>", 0), ("<|end|>", 1)])])
    return made


def record(tokenizer: Tokenizer) -> list[dict]:
    out = []
    for text in TEXTS + random_texts():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        out.append({"text": text, "ids": ids,
                    "with_special": tokenizer.encode(text, add_special_tokens=True).ids,
                    "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                    "decoded_plain": tokenizer.decode(ids, skip_special_tokens=True)})
    return out


def write(encodings: list[dict], path: pathlib.Path) -> None:
    lines = ",\n".join(json.dumps(item, separators=(",", ":")) for item in encodings)
    path.write_text(f"[\n{lines}\n]\n")


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--record":
        return write(record(Tokenizer.from_file(sys.argv[2])), pathlib.Path(sys.argv[3]))
    out = pathlib.Path(__file__).resolve().parents[2] / "tests/decode/model/data/tokenizers"
    out.mkdir(parents=True, exist_ok=True)
    for name, tokenizer in make().items():
        (out / f"{name}.json").write_text(tokenizer.to_str(pretty=False) + "\n")
        write(record(Tokenizer.from_file(str(out / f"{name}.json"))), out / f"{name}.encodings.json")


if __name__ == "__main__":
    main()
