"""PyTorch's side of bench/worker.ts: one line of JSON in, one out. Work that is not known is answered with 'unknown'."""
import json
import resource
import sys
import time
import warnings

import torch

import torch_gpt
import torch_quantized
import torch_work

warnings.filterwarnings("ignore")

WORK = {
    **torch_work.WORK,
    **torch_quantized.WORK,
    "train": torch_gpt.training_step,
    "adapt": torch_gpt.adapting_step,
    "prefill": torch_gpt.prefill,
    "decode": torch_gpt.decode,
}


def setup(request):
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    make = WORK.get(request["op"])
    return make(**request["args"]) if make else None


def run(once, n, grad):
    with torch.set_grad_enabled(grad):
        begun = time.perf_counter()
        for _ in range(n):
            once()
        return time.perf_counter() - begun


def main():
    slots = {}
    for line in sys.stdin:
        request = json.loads(line)
        reply = {"ok": True}
        try:
            if request["do"] == "hello":
                reply["versions"] = {"torch": torch.__version__}
            elif request["do"] == "setup":
                once = setup(request)
                if once is None:
                    reply = {"ok": False, "reason": "unknown"}
                else:
                    grad = request["op"] in ("train", "adapt") or bool(request["args"].get("backward"))
                    slots[request["slot"]] = (once, grad)
                del once  # or the last work would never be freed
            elif request["do"] == "run":
                once, grad = slots[request["slot"]]
                reply["seconds"] = run(once, request["n"], grad)
                del once
            elif request["do"] == "drop":
                slots.pop(request["slot"], None)
            elif request["do"] == "peak":
                reply["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        except Exception as error:  # the other side reports it beside the row
            reply = {"ok": False, "reason": repr(error)}
        print(json.dumps(reply), flush=True)


main()
