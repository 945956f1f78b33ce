# SPDX-License-Identifier: Apache-2.0
"""Countdown with long chains of thought: vocabulary, generator, answer checker.

A problem is a list of 3 to 5 numbers and a goal. Every number is used exactly once; each step
replaces two numbers x >= y by x + y, x - y, x * y or x / y; every value is an integer in 1..99.
The chain of thought is the complete trace of one fixed depth-first search, so every token after
the prompt is determined by the tokens before it, and each token's kind of thought is known:

    P prompt      R reasoning (plans, tries, answer)      E execution (arithmetic at the leaves)
    T transition  (a dead end; going back, with a review of what was tried)

Grammar (tokens are separated by one space; L, rest, a b are numbers in descending order):

    chain   := prompt node(numbers) 'yes' 'ans' step+ '<eos>'      only up to the first success
    prompt  := '<bos>' 'goal' G '[' numbers ']'                                            P
    step    := x op y '=' r ';'
    node(L) , 4 or 5 numbers:
        'plan' '[' L ']' ':' step* '.'                  every first step, canonical order  R
        for every step of the plan:
            'try' x op y '=' r 'got' '[' rest ']'                                          R
            node(rest)                                  ends the chain if it succeeds
            'back' '[' L ']' ':' step+ '.'              the steps tried here so far        T
        'dead' '[' L ']'                                                                   T
    node(L) , 3 numbers:
        'plan' '[' L ']' ':' step* '.'                                                     R
        for every step of the plan:
            x op y '=' r '[' a b ']'                                                       E
            for every result s of a and b:  a op b '=' s 'no'   ('yes' ends the search)    E
        'dead' '[' L ']'                                                                   T

Canonical order: positions i < j of L ascending, pairs with values seen before skipped, then
the operations + - * / where allowed: x + y <= 99; x - y >= 1; y > 1 and x * y <= 99;
y > 1 and y divides x. The token 'yes' stands where 'no' would and is of kind R.

The answer, exactly (this is all that `check` looks at): what follows the *first* token 'ans'
must be k - 1 steps `x op y = r ;` (k = how many numbers the problem has) and then '<eos>', with
nothing between or before; whatever follows that '<eos>' is ignored. In each step x and y are two
different members of the multiset of numbers at hand (first the problem's), x >= y, op is allowed
and r = x op y, an integer in 1..99; then x and y leave the multiset and r joins it. The r of the
last step is the goal. No 'ans' or no '<eos>' (a truncated chain): wrong.
"""
from __future__ import annotations

import hashlib
import random
from typing import Iterable, NamedTuple, Sequence

NUMBER_COUNT = 100  # tokens 0..99 are the numbers themselves
WORDS = ["<pad>", "<bos>", "<eos>", "+", "-", "*", "/", "=", "[", "]", "goal", "plan", ":", ";",
         ".", "try", "got", "no", "yes", "dead", "back", "ans"]
UNUSED = ["<extra_%d>" % i for i in range(128 - NUMBER_COUNT - len(WORDS) - 1)] + ["<unk>"]
VOCAB = [str(i) for i in range(NUMBER_COUNT)] + WORDS + UNUSED  # token id = index
ID = {word: i for i, word in enumerate(VOCAB)}
PAD, BOS, EOS, ANS = ID["<pad>"], ID["<bos>"], ID["<eos>"], ID["ans"]
KINDS = "PRET"  # a kind is stored as its index in this string

CHAIN_TOKENS_MAX = 16384
NUMBER_MAX = 30
GOAL_MIN, GOAL_MAX = 10, 99

_PLUS, _MINUS, _TIMES, _OVER, _EQUALS = (ID[c] for c in "+-*/=")
_OPEN, _CLOSE, _COLON, _SEMI, _STOP = (ID[c] for c in "[]:;.")
_PLAN, _TRY, _GOT, _NO, _YES, _DEAD, _BACK, _GOAL = (
    ID[w] for w in ("plan", "try", "got", "no", "yes", "dead", "back", "goal"))
_P, _R, _E, _T = (bytes([i]) for i in range(4))


class Chain(NamedTuple):
    """A solved problem: token ids and, aligned with them, indices into KINDS."""

    tokens: bytes
    kinds: bytes

    @property
    def prompt_tokens(self) -> int:
        return self.kinds.count(0)


def results(x: int, y: int) -> list[tuple[int, int]]:
    """(op token, value) of every allowed operation on x >= y, in canonical order."""
    out = []
    if x + y <= 99:
        out.append((_PLUS, x + y))
    if x > y:
        out.append((_MINUS, x - y))
    if y > 1:
        if x * y <= 99:
            out.append((_TIMES, x * y))
        if x % y == 0:
            out.append((_OVER, x // y))
    return out


_RESULTS = [[results(x, y) if x >= y else [] for y in range(100)] for x in range(100)]


def steps(numbers: tuple[int, ...]) -> list[tuple[bytes, tuple[int, ...]]]:
    """The plan of a node: (`x op y = r` as tokens, what is left, descending) in canonical order."""
    out = []
    n = len(numbers)
    for i in range(n):
        if i and numbers[i] == numbers[i - 1]:
            continue
        for j in range(i + 1, n):
            if j > i + 1 and numbers[j] == numbers[j - 1]:
                continue
            x, y = numbers[i], numbers[j]
            others = numbers[:i] + numbers[i + 1:j] + numbers[j + 1:]
            for op, r in _RESULTS[x][y]:
                rest = tuple(sorted(others + (r,), reverse=True))
                out.append((bytes((x, op, y, _EQUALS, r)), rest))
    return out


def _listing(word: int, numbers: Sequence[int], entries: Iterable[bytes]) -> bytes:
    """`word [ numbers ] : entry ; entry ; .`"""
    return (bytes((word, _OPEN, *numbers, _CLOSE, _COLON))
            + b"".join(e + bytes((_SEMI,)) for e in entries) + bytes((_STOP,)))


class _Triple:
    """The trace of a node of three numbers; where it stops depends on the goal alone."""

    __slots__ = ("tokens", "plan_tokens", "wins", "dead")

    def __init__(self, numbers: tuple[int, ...]):
        plan = steps(numbers)
        out = bytearray(_listing(_PLAN, numbers, (e for e, _ in plan)))
        self.plan_tokens = len(out)
        self.wins: dict[int, tuple[int, bytes, bytes]] = {}  # goal -> (end, first step, last step)
        for entry, (a, b) in plan:
            out += entry
            out += bytes((_OPEN, a, b, _CLOSE))
            for op, s in _RESULTS[a][b]:
                out += bytes((a, op, b, _EQUALS, s, _NO))
                if s not in self.wins:
                    self.wins[s] = (len(out) - 1, entry, bytes(out[-6:-1]))
        self.tokens = bytes(out)
        self.dead = bytes((_DEAD, _OPEN, *numbers, _CLOSE))


_triples: dict[tuple[int, ...], _Triple] = {}


def _triple(numbers: tuple[int, ...]) -> _Triple:
    found = _triples.get(numbers)
    if found is None:
        if len(_triples) >= 100_000:
            _triples.clear()
        found = _triples[numbers] = _Triple(numbers)
    return found


class _Search:
    """One depth-first search; `tokens` and `kinds` grow in step."""

    def __init__(self, goal: int, limit: int):
        self.goal, self.limit = goal, limit
        self.tokens, self.kinds = bytearray(), bytearray()
        self.path: list[bytes] = []

    def emit(self, kind: bytes, tokens: bytes) -> None:
        self.tokens += tokens
        self.kinds += kind * len(tokens)

    def node(self, numbers: tuple[int, ...]) -> bool:
        """True on success; False when dead or over the limit."""
        if len(numbers) == 3:
            return self.leaf(numbers)
        plan = steps(numbers)
        self.emit(_R, _listing(_PLAN, numbers, (e for e, _ in plan)))
        tried: list[bytes] = []
        for entry, rest in plan:
            self.emit(_R, bytes((_TRY,)) + entry + bytes((_GOT, _OPEN, *rest, _CLOSE)))
            self.path.append(entry)
            if self.node(rest):
                return True
            if len(self.tokens) > self.limit:
                return False
            self.path.pop()
            tried.append(entry)
            self.emit(_T, _listing(_BACK, numbers, tried))
        self.emit(_T, bytes((_DEAD, _OPEN, *numbers, _CLOSE)))
        return False

    def leaf(self, numbers: tuple[int, ...]) -> bool:
        triple = _triple(numbers)
        win = triple.wins.get(self.goal)
        end = win[0] if win else len(triple.tokens)
        self.emit(_R, triple.tokens[:triple.plan_tokens])
        self.emit(_E, triple.tokens[triple.plan_tokens:end])
        if not win:
            self.emit(_T, triple.dead)
            return False
        self.path += win[1:]
        return True


def prompt_ids(numbers: Sequence[int], goal: int) -> bytes:
    """The prompt as token ids; the numbers may come in any order."""
    return bytes((BOS, _GOAL, goal, _OPEN, *sorted(numbers, reverse=True), _CLOSE))


def solve(numbers: Sequence[int], goal: int, limit: int = CHAIN_TOKENS_MAX) -> Chain | None:
    """The reference chain, or None if there is no solution within `limit` tokens in all."""
    search = _Search(goal, limit)
    search.emit(_P, prompt_ids(numbers, goal))
    if not search.node(tuple(sorted(numbers, reverse=True))):
        return None
    semi = bytes((_SEMI,))
    search.emit(_R, bytes((_YES, ANS)) + b"".join(e + semi for e in search.path) + bytes((EOS,)))
    if len(search.tokens) > limit:
        return None
    return Chain(bytes(search.tokens), bytes(search.kinds))


def check(numbers: Sequence[int], goal: int, tokens: Sequence[int]) -> bool:
    """Is the answer in `tokens` (a chain, with or without its prompt) right? See the top."""
    tokens = list(tokens)
    if ANS not in tokens:
        return False
    answer = tokens[tokens.index(ANS) + 1:]
    if EOS not in answer:
        return False
    answer = answer[:answer.index(EOS)]
    if len(answer) != 6 * (len(numbers) - 1):
        return False
    pool = list(numbers)
    for at in range(0, len(answer), 6):
        x, op, y, equals, r, semi = answer[at:at + 6]
        if equals != _EQUALS or semi != _SEMI or x not in pool:
            return False
        pool.remove(x)
        if y not in pool or x < y or (op, r) not in _RESULTS[x][y]:
            return False
        pool.remove(y)
        pool.append(r)
    return pool == [goal]


def is_held_out(numbers: Sequence[int], goal: int) -> bool:
    """A fixed 1/64 of all problems, by hash of sorted numbers and goal; never trained on."""
    key = ",".join(map(str, sorted(numbers))) + ">" + str(goal)
    return hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % 64 == 0


def sample(rng: random.Random, count: int) -> tuple[list[int], int]:
    """A random problem of `count` numbers, in descending order; it may have no solution."""
    numbers = sorted((rng.randint(1, NUMBER_MAX) for _ in range(count)), reverse=True)
    return numbers, rng.randint(GOAL_MIN, GOAL_MAX)


def to_text(tokens: Iterable[int]) -> str:
    return " ".join(VOCAB[t] for t in tokens)


def from_text(text: str) -> list[int]:
    return [ID[word] for word in text.split()]
