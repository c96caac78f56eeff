# Makes the *.pt files of this folder: mask embeddings as torch saves them, and others that must be refused.
# python3 make.py (needs torch)
import os
import pickle
import zipfile

import torch

values = (torch.arange(64, dtype=torch.float32) - 20) / 8  # exact in bfloat16


def save(name, value):
    torch.save(value, name + ".pt")


save("bf16", {"mask_token_id": 250, "embedding": values.to(torch.bfloat16)})
save("f32", {"embedding": values, "mask_token_id": 250})
save("row", {"mask_token_id": 250, "embedding": values.to(torch.bfloat16)[None]})
table = torch.zeros(3, 64, dtype=torch.bfloat16)
table[2] = values
save("slice", {"mask_token_id": 250, "embedding": table[2]})
# refused
save("parameter", {"mask_token_id": 250, "embedding": torch.nn.Parameter(values)})
save("strided", {"mask_token_id": 250, "embedding": values.repeat_interleave(2)[::2]})
save("half", {"mask_token_id": 250, "embedding": values.half()})
save("short", {"mask_token_id": 250, "embedding": values[:32].clone()})
save("other_key", {"mask_token_id": 250, "embedding": values, "note": "x"})
save("no_token", {"embedding": values})
save("no_embedding", {"mask_token_id": 250})
save("list", [250, values])
save("nan", {"mask_token_id": 250, "embedding": values / (values != 0)})


class Call:
    def __reduce__(self):
        return os.system, ("touch mask_embedding_was_run",)


with zipfile.ZipFile("call.pt", "w", zipfile.ZIP_STORED) as out:
    out.writestr("call/data.pkl", pickle.dumps(Call(), protocol=2))
with zipfile.ZipFile("bf16.pt") as source, zipfile.ZipFile("deflated.pt", "w", zipfile.ZIP_DEFLATED) as out:
    for name in source.namelist():
        out.writestr(name, source.read(name))
