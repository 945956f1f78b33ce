#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cases of attend_bench for others' kernels: FlashInfer's paged decode and PyTorch's best.

Each (engine, format, case) tries every variant that applies, verifies it against fp32 attention on
the same tokens, times it, and prints the best as one JSON line; variants that are slower or that
refuse the case are named in it. Times are a layer's: a CUDA graph runs `layers` layers with data of
their own, so that none finds its tokens in the L2 cache; the median of the replays counts.

  FlashInfer, bf16 and fp8 (E4M3, no scales; bf16 queries), pages of 16 tokens scattered at random:
    decode      BatchDecodeWithPagedKVCacheWrapper, CUDA cores
    decode-tc   the same with use_tensor_cores=True (FlashAttention-2 template)
    decode-fa3  the same, backend="fa3" (bf16 only)
    xqa         flashinfer.decode.xqa_batch_decode_with_kv_cache
    each with pages laid out NHD and HND
  PyTorch, bf16, contiguous [batch, kv_heads, tokens, head_dim], scaled_dot_product_attention:
    gqa         enable_gqa=True, one query a sequence
    packed      the query heads of a group as rows of one matrix; the mask is none in both
    each with the flash, cuDNN and memory-efficient back ends

Examples:
  python3 bench/attend_flashinfer.py --quick
  python3 bench/attend_flashinfer.py --case 32/8/128:64:1024 --engine flashinfer --all-variants
"""
import argparse
import json
import pathlib
import statistics
import sys
import warnings
from typing import NoReturn


def skip(why: str) -> NoReturn:
    """Nothing to measure here: what tests/gpu/run reports as skipped."""
    print(f"attend_flashinfer: {why}", file=sys.stderr)
    sys.exit(77)


try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as missing:
    skip(f"{missing} (pip install torch)")

PAGE = 16
ROTATE_BYTES = 256 << 20  # five times an H100's L2 cache
LAYERS_MAX = 128
# |out - exact| / |exact| (Euclidean): bf16 outputs and probabilities; xqa rounds more to E4M3.
ERROR_MAX = {"bf16": 1 / 64, "fp8": 1 / 8}
QUERY_DEVIATION = 2.0  # peaked enough for a lost token to show


class Case:
    def __init__(self, shape: str, batch: int, live: int):
        self.shape, self.batch, self.live = shape, batch, live
        self.query_heads, self.kv_heads, self.head_dim = map(int, shape.split("/"))
        self.scale = self.head_dim ** -0.5

    def layer_bytes(self, element: int) -> int:
        return self.batch * self.live * self.kv_heads * self.head_dim * 2 * element

    def activation_bytes(self) -> int:  # queries in, outputs out
        return self.batch * self.query_heads * self.head_dim * 2 * 2


def read_cases(path: pathlib.Path, quick: bool) -> list[Case]:
    lines = [line.split("#")[0].split() for line in path.read_text().splitlines()]
    return [Case(words[0], int(words[1]), int(words[2])) for words in lines
            if words and (not quick or "quick" in words)]


def parse_case(text: str) -> Case:
    shape, batch, live = text.split(":")
    return Case(shape, int(batch), int(live))


def median_seconds(run, budget_s: float) -> float:
    """Of run() on the current stream: 10 to 200 times, about budget_s in all, after three."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds: list[float] = []
    for _ in range(3):
        run()
    while len(seconds) < 10 or (len(seconds) < 200 and sum(seconds) < budget_s):
        begin.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def time_graph(body, layers: int, budget_s: float) -> float:
    """Median seconds of one layer of body(layer), called for every layer in one CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for layer in range(min(layers, 2)):
            body(layer)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for layer in range(layers):
                body(layer)
        return median_seconds(graph.replay, budget_s) / layers


def copy_gbps() -> float:
    """Bytes read and written a second by a device-to-device copy of 2 GiB.

    Not in a graph: there the copy engines carry it out, a fifth slower than the multiprocessors.
    """
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source), 0.1) / 1e9


def fill_random(data: torch.Tensor) -> None:
    """Gaussian content, a gibibyte at a time (fp8 has no generator of its own)."""
    flat = data.view(-1)
    step = 1 << 28
    for at in range(0, flat.numel(), step):
        part = flat[at:at + step]
        part.copy_(torch.randn(part.numel(), dtype=torch.bfloat16, device="cuda"))


def exact(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """fp32 attention of one sequence. q [query_heads, dim]; k, v [kv_heads, tokens, dim]."""
    group = case.query_heads // case.kv_heads
    q = q.float().view(case.kv_heads, group, case.head_dim)
    weights = torch.softmax(q @ k.float().transpose(1, 2) * case.scale, dim=-1)
    return (weights @ v.float()).view(case.query_heads, case.head_dim)


def checked_sequences(case: Case) -> list[int]:
    return sorted({0, case.batch // 2, case.batch - 1})


def relative_error(out: torch.Tensor, exact_out: torch.Tensor) -> float:
    return ((out.float() - exact_out).norm() / exact_out.norm()).item()


def random_queries(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda") * QUERY_DEVIATION


class FlashInferCache:
    """One layer after another of scattered pages: [pages, 2, 16 * kv_heads * head_dim]."""

    def __init__(self, case: Case, dtype: torch.dtype, layers: int):
        self.case, self.dtype = case, dtype
        self.pages_each = -(-case.live // PAGE)
        count = case.batch * self.pages_each
        self.layers = []
        for _ in range(layers):
            data = torch.empty(count, 2, PAGE * case.kv_heads * case.head_dim, dtype=dtype,
                               device="cuda")
            fill_random(data)
            self.layers.append(data)
        self.indices = torch.randperm(count, device="cuda", dtype=torch.int32)
        self.indptr = torch.arange(0, count + 1, self.pages_each, dtype=torch.int32, device="cuda")
        last = case.live - (self.pages_each - 1) * PAGE
        self.last = torch.full((case.batch,), last, dtype=torch.int32, device="cuda")
        self.q = random_queries(case.batch, case.query_heads, case.head_dim)

    def view(self, layer: int, layout: str) -> torch.Tensor:
        heads, dim = self.case.kv_heads, self.case.head_dim
        inner = (PAGE, heads, dim) if layout == "NHD" else (heads, PAGE, dim)
        return self.layers[layer].view(-1, 2, *inner)

    def error(self, layer: int, layout: str, out: torch.Tensor) -> float:
        case, worst = self.case, 0.0
        for s in checked_sequences(case):
            pages = self.indices[s * self.pages_each:(s + 1) * self.pages_each].long()
            data = self.view(layer, layout)[pages].float()
            if layout == "HND":
                data = data.transpose(2, 3)
            k, v = (data[:, i].reshape(-1, case.kv_heads, case.head_dim)[:case.live].transpose(0, 1)
                    for i in (0, 1))
            worst = max(worst, relative_error(out[s], exact(case, self.q[s], k, v)))
        return worst


def flashinfer_variants(cache: FlashInferCache):
    """(name, layout, run(layer) -> out); a variant that cannot be made raises when first run."""
    import flashinfer  # not needed for PyTorch's part
    from flashinfer.decode import xqa_batch_decode_with_kv_cache
    case = cache.case
    workspace = torch.zeros(512 << 20, dtype=torch.uint8, device="cuda")
    block_table = cache.indices.view(case.batch, -1)
    lengths = torch.full((case.batch,), case.live, dtype=torch.int32, device="cuda")

    def wrapper(layout: str, **options):
        made = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, layout, **options)
        made.plan(cache.indptr, cache.indices, cache.last, case.query_heads, case.kv_heads,
                  case.head_dim, PAGE, q_data_type=torch.bfloat16, kv_data_type=cache.dtype,
                  sm_scale=case.scale)
        out = torch.empty_like(cache.q)
        return lambda layer: made.run(cache.q, cache.view(layer, layout), out=out)

    def xqa(layout: str):
        out = torch.empty_like(cache.q)
        workspace.zero_()
        return lambda layer: xqa_batch_decode_with_kv_cache(
            cache.q, cache.view(layer, layout), workspace, block_table, lengths, case.live,
            bmm1_scale=case.scale, bmm2_scale=1.0, out=out, kv_layout=layout)

    kinds = {"decode": lambda layout: wrapper(layout),
             "decode-tc": lambda layout: wrapper(layout, use_tensor_cores=True),
             "xqa": xqa}
    if cache.dtype == torch.bfloat16:
        kinds["decode-fa3"] = lambda layout: wrapper(layout, use_tensor_cores=True, backend="fa3")
    for name, make in kinds.items():
        for layout in ("NHD", "HND"):
            yield f"{name} {layout}", layout, lambda make=make, layout=layout: make(layout)


def run_flashinfer(case: Case, kind: str, layers: int, budget_s: float) -> list[dict]:
    dtype = torch.float8_e4m3fn if kind == "fp8" else torch.bfloat16
    cache = FlashInferCache(case, dtype, layers)
    tried = []
    for name, layout, make in flashinfer_variants(cache):
        tried.append(attempt(name, make, layers, budget_s, kind,
                             lambda out, layout=layout: cache.error(layers - 1, layout, out)))
    return tried


def run_torch(case: Case, layers: int, budget_s: float) -> list[dict]:
    shape = (case.batch, case.kv_heads, case.live, case.head_dim)
    keys, values = ([torch.empty(shape, dtype=torch.bfloat16, device="cuda") for _ in range(layers)]
                    for _ in range(2))
    for data in keys + values:
        fill_random(data)
    q = random_queries(case.batch, case.query_heads, 1, case.head_dim)
    packed = q.view(case.batch, case.kv_heads, -1, case.head_dim)
    attention = torch.nn.functional.scaled_dot_product_attention

    def error(out: torch.Tensor) -> float:
        out, worst = out.reshape(case.batch, case.query_heads, case.head_dim), 0.0
        for s in checked_sequences(case):
            k, v = keys[layers - 1][s], values[layers - 1][s]
            worst = max(worst, relative_error(out[s], exact(case, q[s, :, 0], k, v)))
        return worst

    def make(backend, is_packed: bool):
        def run(layer: int) -> torch.Tensor:
            with sdpa_kernel([backend]):
                return attention(packed if is_packed else q, keys[layer], values[layer],
                                 scale=case.scale, enable_gqa=not is_packed)
        return run

    tried = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION,
                    SDPBackend.EFFICIENT_ATTENTION):
        for is_packed in (False, True):
            name = f"{backend.name.split('_')[0].lower()} {'packed' if is_packed else 'gqa'}"
            tried.append(attempt(name, lambda: make(backend, is_packed), layers, budget_s, "bf16",
                                 error))
    return tried


def attempt(name: str, make, layers: int, budget_s: float, kind: str, error) -> dict:
    """Verifies and times one variant: {variant, us, error} or {variant, why}."""
    try:
        run = make()
        wrong = error(run(layers - 1))
        if not wrong <= ERROR_MAX[kind]:
            return {"variant": name, "why": f"wrong: relative error {wrong:.3g}"}
        return {"variant": name, "us": time_graph(run, layers, budget_s) * 1e6, "error": wrong}
    except Exception as problem:  # noqa: BLE001: what a library refuses differs from case to case
        torch.cuda.synchronize()
        return {"variant": name, "why": str(problem).strip().splitlines()[0][:160] or repr(problem)}


def layers_for(case: Case, element: int, memory: int) -> int:
    """Enough layers to leave the cache cold, or 0 where not even one fits."""
    each = case.layer_bytes(element)
    wanted = min(max(-(-ROTATE_BYTES // each), 2), LAYERS_MAX)
    return min(wanted, memory // each)


def report(case: Case, engine: str, name: str, tried: list[dict], layers: int, ceiling: float,
           options) -> None:
    element = 1 if name == "fp8" else 2
    read = case.layer_bytes(element) + case.activation_bytes()
    line = {"bench": "attend", "engine": engine, "format": name, "shape": case.shape,
            "batch": case.batch, "live": case.live, "holes": 0, "layers": layers, "bytes": read}
    good = sorted((t for t in tried if "us" in t), key=lambda t: t["us"])
    if good:
        best = good[0]
        gbps = read / best["us"] / 1e3
        line |= {"us": round(best["us"], 2), "gbps": round(gbps, 1),
                 "share_of_copy": round(gbps / ceiling, 4), "variant": best["variant"],
                 "relative_error": float(f"{best['error']:.2g}"),
                 "tokens_per_s": round(case.batch / best["us"] * 1e6),
                 "others": {t["variant"]: round(t["us"], 2) for t in good[1:]}}
    if options.all_variants or not good:
        line["refused"] = {t["variant"]: t["why"] for t in tried if "why" in t}
    print(json.dumps(line), flush=True)


def run_case(case: Case, ceiling: float, options) -> None:
    memory = int(options.memory_gib * 2**30)
    jobs = [("flashinfer", name) for name in ("bf16", "fp8") if "flashinfer" in options.engine]
    jobs += [("torch", "bf16")] if "torch" in options.engine else []
    for engine, name in jobs:
        layers = layers_for(case, 1 if name == "fp8" else 2, memory)
        if layers == 0:
            tried = [{"variant": "all", "why": "does not fit in the device's memory"}]
        elif engine == "torch":
            tried = run_torch(case, layers, options.seconds)
        else:
            tried = run_flashinfer(case, name, layers, options.seconds)
        report(case, engine, name, tried, layers, ceiling, options)
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).resolve().parent
    parser.add_argument("--cases", type=pathlib.Path, default=here / "attend_cases.txt")
    parser.add_argument("--case", action="append", type=parse_case,
                        help="shape:batch:live instead of the file's; may be repeated")
    parser.add_argument("--quick", action="store_true", help="only the file's quick cases")
    parser.add_argument("--engine", action="append", choices=("flashinfer", "torch"))
    parser.add_argument("--seconds", type=float, default=0.03, help="timed work of a variant")
    parser.add_argument("--memory-gib", type=float, default=60)
    parser.add_argument("--all-variants", action="store_true", help="say why variants were refused")
    options = parser.parse_args()
    options.engine = options.engine or ["flashinfer", "torch"]
    if not torch.cuda.is_available():
        skip("there is no CUDA device here")
    torch.manual_seed(1)
    warnings.filterwarnings("ignore", category=UserWarning)  # what a back end refuses is reported
    ceiling = copy_gbps()
    versions = {"torch": torch.__version__}
    if "flashinfer" in options.engine:
        try:
            import flashinfer
        except ImportError as missing:
            skip(f"{missing} (pip install flashinfer-python, or --engine torch)")
        versions["flashinfer"] = flashinfer.__version__
    print(json.dumps({"bench": "attend", "device": torch.cuda.get_device_name(),
                      "copy_gbps": round(ceiling, 1), **versions}), flush=True)
    with torch.inference_mode():
        for case in options.case or read_cases(options.cases, options.quick):
            run_case(case, ceiling, options)


if __name__ == "__main__":
    main()
