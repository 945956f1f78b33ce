# SPDX-License-Identifier: Apache-2.0
"""Texts made of templates and honest arithmetic: long chains of reasoning, dialogues and tables in
which what comes depends on what was said far above. Every number in them is right. A text has at
least `size` characters; a longer one of the same seed goes on where a shorter one ends."""
from __future__ import annotations

import math
import random
from fractions import Fraction

NAMES = ["Ada", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hiro", "Ines", "Jonas",
         "Katya", "Liam", "Mona", "Nils", "Olga", "Pavel", "Rosa", "Samir", "Tara", "Viktor"]
GOODS = ["lamps", "chairs", "kettles", "blankets", "ladders", "mirrors", "baskets", "candles",
         "clocks", "teapots", "carpets", "shelves", "drums", "helmets", "lanterns", "umbrellas"]
TOWNS = ["Aldermoor", "Brackwater", "Castleford", "Dunmere", "Eastvale", "Fernhollow"]


def fill(make, rng: random.Random, size: int) -> str:
    """Paragraphs of `make(rng, number)` until there are `size` characters."""
    parts, total = [], 0
    while total < size:
        parts.append(make(rng, len(parts) + 1))
        total += len(parts[-1])
    return "\n\n".join(parts)


# ---- reasoning

def search(seed: int, size: int) -> str:
    def problem(rng: random.Random, index: int) -> str:
        numbers = [rng.randint(2, 12) for _ in range(4)]
        goal = rng.choice([numbers[0] * numbers[1] - numbers[2] + numbers[3],
                           (numbers[0] + numbers[1]) * numbers[2] - numbers[3],
                           numbers[0] * numbers[1] + numbers[2] * numbers[3]])
        out = [f"Problem {index}. Use {', '.join(map(str, numbers))} once each, with +, - and *, "
               f"to make {goal}.", "Let me try combinations one by one."]
        steps = 0

        def visit(left: list[tuple[int, str]]) -> bool:
            nonlocal steps
            if len(left) == 1:
                value, text = left[0]
                if value == goal:
                    out.append(f"That is {goal}, which is what we want. So the answer is {text} = {goal}.")
                    return True
                out.append(f"I end with {value}, but the goal is {goal}, so this fails; go back.")
                return False
            pairs = [(i, j) for i in range(len(left)) for j in range(i + 1, len(left))]
            rng.shuffle(pairs)
            for i, j in pairs:
                (a, ta), (b, tb) = sorted((left[i], left[j]), reverse=True)
                rest = [left[k] for k in range(len(left)) if k not in (i, j)]
                for sign, value in (("*", a * b), ("+", a + b), ("-", a - b)):
                    steps += 1
                    if steps > 45:
                        return False
                    have = ", ".join(str(v) for v, _ in rest)
                    out.append(f"{a} {sign} {b} = {value}." + (f" Then I have {value} and {have} left."
                                                               if rest else ""))
                    if visit(rest + [(value, f"({ta} {sign} {tb})")]):
                        return True
            out.append("Nothing works with " + ", ".join(str(v) for v, _ in left) + "; I go one step back.")
            return False

        if not visit([(n, str(n)) for n in numbers]):
            out.append("I have tried many ways and give up on this one for now.")
        return " ".join(out)

    return fill(problem, random.Random(seed), size)


def equations(seed: int, size: int) -> str:
    def problem(rng: random.Random, index: int) -> str:
        names = ["x", "y", "z"]
        solution = [rng.randint(-9, 9) for _ in names]
        rows = []
        while True:
            rows = [[rng.choice([-4, -3, -2, -1, 1, 2, 3, 4, 5]) for _ in names] for _ in names]
            a, b, c = rows
            det = (a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
                   + a[2] * (b[0] * c[1] - b[1] * c[0]))
            if det != 0 and a[0] * b[1] != a[1] * b[0]:
                break
        system = [[Fraction(v) for v in row] + [Fraction(sum(v * s for v, s in zip(row, solution)))]
                  for row in rows]

        def show(row: list[Fraction]) -> str:
            terms = [f"{'-' if v < 0 else '+'} {abs(v)}{n}" for v, n in zip(row, names) if v != 0]
            return " ".join(terms).removeprefix("+ ") + f" = {row[3]}"

        out = [f"Exercise {index}. Solve the system\n" + "\n".join(f"  ({i + 1})  {show(r)}"
                                                                 for i, r in enumerate(system))]
        for pivot in range(2):
            for lower in range(pivot + 1, 3):
                factor = system[lower][pivot] / system[pivot][pivot]
                if factor == 0:
                    continue
                system[lower] = [u - factor * v for u, v in zip(system[lower], system[pivot])]
                out.append(f"To remove {names[pivot]} from equation ({lower + 1}), subtract {factor} times "
                           f"equation ({pivot + 1}). Equation ({lower + 1}) becomes {show(system[lower])}.")
        found: dict[str, Fraction] = {}
        for i in (2, 1, 0):
            row = system[i]
            known = sum(row[j] * found[names[j]] for j in range(i + 1, 3))
            found[names[i]] = (row[3] - known) / row[i]
            why = " and ".join(f"{names[j]} = {found[names[j]]}" for j in range(i + 1, 3))
            out.append(f"From equation ({i + 1}), {show(row)}" + (f", with {why}" if why else "")
                       + f", we get {row[i]}{names[i]} = {row[3] - known}, so {names[i]} = {found[names[i]]}.")
        checks = [" + ".join(f"({v})({s})" for v, s in zip(row, solution)) + f" = "
                  f"{sum(v * s for v, s in zip(row, solution))}" for row in rows]
        out.append("Check with the equations as they were given: " + "; ".join(checks) + ". All three hold. "
                   f"The solution is x = {found['x']}, y = {found['y']}, z = {found['z']}.")
        return "\n".join(out)

    return fill(problem, random.Random(seed + 100), size)


def number_theory(seed: int, size: int) -> str:
    def problem(rng: random.Random, index: int) -> str:
        a, b = rng.randint(400, 4000), rng.randint(120, 2000)
        out = [f"Question {index}. Find the greatest common divisor of {a} and {b}, their least common "
               f"multiple, and the prime factors of both."]
        x, y = max(a, b), min(a, b)
        while y:
            out.append(f"{x} divided by {y} is {x // y}, remainder {x % y}.")
            x, y = y, x % y
        g = math.gcd(a, b)
        out.append(f"The last remainder that is not zero is {g}, so the greatest common divisor is {g}. The "
                   f"least common multiple is {a} * {b} / {g} = {a * b // g}.")
        for n in (a, b):
            left, factors, p = n, [], 2
            out.append(f"Now the factors of {n}.")
            while p * p <= left:
                if left % p == 0:
                    out.append(f"{left} is divisible by {p}: {left} / {p} = {left // p}.")
                    factors.append(p)
                    left //= p
                else:
                    p += 1 if p == 2 else 2
            factors.append(left)
            out.append(f"No prime up to the square root of {left} divides {left}, so it is prime. Hence {n} = "
                       + " * ".join(map(str, factors)) + ".")
        return " ".join(out)

    return fill(problem, random.Random(seed + 200), size)


def ordering(seed: int, size: int) -> str:
    def problem(rng: random.Random, index: int) -> str:
        people = rng.sample(NAMES, 6)
        order = people[:]
        rng.shuffle(order)
        clues = [(order[i], order[j]) for i in range(6) for j in range(i + 1, 6)]
        chain = [(order[i], order[i + 1]) for i in range(5)]
        extra = rng.sample([c for c in clues if c not in chain], 3)
        given = chain + extra
        rng.shuffle(given)
        out = [f"Puzzle {index}. Six people stand in a queue: {', '.join(people)}. "
               + " ".join(f"{a} stands somewhere before {b}." for a, b in given)
               + " In which order do they stand?"]
        left, placed = people[:], []
        while left:
            for person in left:
                before = [a for a, b in given if b == person and a in left]
                if before:
                    out.append(f"Can {person} be number {len(placed) + 1}? No, because {before[0]} stands "
                               f"before {person} and has no place yet.")
                    continue
                out.append(f"Can {person} be number {len(placed) + 1}? Nobody who is left must stand before "
                           f"{person}, so yes. The queue so far: {', '.join(placed + [person])}.")
                placed.append(person)
                left.remove(person)
                break
        out.append(f"So the order is {', '.join(placed)}.")
        return " ".join(out)

    return fill(problem, random.Random(seed + 300), size)


# ---- dialogue

def shop(seed: int, size: int) -> str:
    rng = random.Random(seed + 400)
    price = {g: rng.randint(3, 60) for g in GOODS}
    stock = {g: rng.randint(5, 80) for g in GOODS}
    customer, clerk = rng.sample(NAMES, 2)
    basket: dict[str, int] = {}
    lines = [f"{customer} calls a shop in {rng.choice(TOWNS)}; {clerk} answers."]
    asks = ["How much are your {g}?", "What do you want for {g}?", "Tell me the price of the {g}, please."]
    while sum(map(len, lines)) < size:
        good = rng.choice(GOODS)
        turn = rng.randrange(5)
        if turn == 0:
            lines += [f"{customer}: {rng.choice(asks).format(g=good)}",
                      f"{clerk}: {price[good]} crowns each. We have {stock[good]} of them in the shop."]
        elif turn == 1 and stock[good] > 3:
            count = rng.randint(1, min(9, stock[good]))
            stock[good] -= count
            basket[good] = basket.get(good, 0) + count
            lines += [f"{customer}: I will take {count} {good}, then.",
                      f"{clerk}: {count} {good} at {price[good]} crowns make {count * price[good]}. That "
                      f"leaves {stock[good]} {good} on the shelf. Anything else?"]
        elif turn == 2 and basket:
            total = sum(n * price[g] for g, n in basket.items())
            listed = ", ".join(f"{n} {g}" for g, n in basket.items())
            lines += [f"{customer}: Remind me what I have so far, and what it comes to.",
                      f"{clerk}: You have {listed}. Together that is {total} crowns."]
        elif turn == 3 and basket:
            good = rng.choice(list(basket))
            count = basket.pop(good)
            stock[good] += count
            lines += [f"{customer}: On second thoughts, I do not need the {good}. Please take them out.",
                      f"{clerk}: Of course. The {count} {good} go back; we have {stock[good]} again."]
        elif turn == 4:
            other = rng.choice([g for g in GOODS if g != good])
            dear, cheap = sorted((good, other), key=lambda g: -price[g])
            gap = price[dear] - price[cheap]
            lines += [f"{customer}: Which cost more, the {good} or the {other}?",
                      f"{clerk}: " + (f"They cost the same, {price[good]} crowns." if gap == 0 else
                                      f"The {dear}, by {gap}: {price[dear]} against {price[cheap]} crowns.")]
    return "\n".join(lines)


def lesson(seed: int, size: int) -> str:
    rng = random.Random(seed + 500)
    pupil, teacher = rng.sample(NAMES, 2)
    lines = [f"A lesson in long multiplication. {teacher} teaches, {pupil} learns."]
    praise = ["Well done.", "Good.", "Exactly.", "That is right.", "Yes."]
    while sum(map(len, lines)) < size:
        a, b = rng.randint(23, 989), rng.randint(12, 98)
        tens, ones = divmod(b, 10)
        lines.append(f"{teacher}: Let us multiply {a} by {b}. How do you begin?")
        lines.append(f"{pupil}: I split {b} into {tens * 10} and {ones}. First {a} times {ones} is {a * ones}.")
        if rng.random() < 0.4:
            wrong = a * tens + rng.choice([-10, 10, 100])
            lines.append(f"{teacher}: {rng.choice(praise)} And {a} times {tens}?")
            lines.append(f"{pupil}: {wrong}, I think.")
            lines.append(f"{teacher}: Check it: {a} times {tens} is {a * tens}, not {wrong}.")
            lines.append(f"{pupil}: I see. So {a} times {tens * 10} is {a * tens * 10}.")
        else:
            lines.append(f"{teacher}: {rng.choice(praise)} And the tens?")
            lines.append(f"{pupil}: {a} times {tens} is {a * tens}, so {a} times {tens * 10} is {a * tens * 10}.")
        lines.append(f"{teacher}: And now?")
        lines.append(f"{pupil}: I add {a * ones} and {a * tens * 10}, which gives {a * b}.")
        lines.append(f"{teacher}: {rng.choice(praise)} So {a} times {b} is {a * b}.")
    return "\n".join(lines)


# ---- tables

def stock(seed: int, size: int) -> str:
    rng = random.Random(seed + 600)
    held = {(t, g): rng.randint(10, 90) for t in TOWNS[:3] for g in GOODS[:8]}
    out = []
    for week in range(1, 100):
        out.append(f"## Week {week}\n\n| store | goods | before | sold | delivered | after |\n"
                   "|---|---|---|---|---|---|")
        sums = {town: 0 for town in TOWNS[:3]}
        for (town, good), before in held.items():
            sold = rng.randint(0, min(before, 20))
            delivered = rng.choice([0, 0, 10, 20])
            held[town, good] = after = before - sold + delivered
            sums[town] += sold
            out.append(f"| {town} | {good} | {before} | {sold} | {delivered} | {after} |")
        out.append("\nSold: " + ", ".join(f"{town} {count}" for town, count in sums.items())
                   + f", together {sum(sums.values())}.\n")
        if sum(map(len, out)) > size:
            break
    return "\n".join(out)


def log(seed: int, size: int) -> str:
    rng = random.Random(seed + 700)
    users = {name.lower(): rng.randint(1000, 9999) for name in rng.sample(NAMES, 8)}
    sessions: dict[int, tuple[str, int]] = {}
    out, second, number = ["time,session,user,id,event,detail"], 8 * 3600, 100

    def stamp() -> str:
        return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"

    while sum(map(len, out)) < size:
        second += rng.randint(1, 40)
        if not sessions or (len(sessions) < 6 and rng.random() < 0.3):
            number += 1
            user = rng.choice(list(users))
            sessions[number] = (user, second)
            out.append(f"{stamp()},{number},{user},{users[user]},login,from {rng.choice(TOWNS)}")
            continue
        session = rng.choice(list(sessions))
        user, since = sessions[session]
        if rng.random() < 0.2:
            out.append(f"{stamp()},{session},{user},{users[user]},logout,after {second - since} s")
            del sessions[session]
        else:
            event, good = rng.choice(["view", "order", "return"]), rng.choice(GOODS)
            out.append(f"{stamp()},{session},{user},{users[user]},{event},{rng.randint(1, 9)} {good}")
    return "\n".join(out)
