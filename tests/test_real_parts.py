"""The documentation's recipes for modules from the hub, word for word, with small random stand-ins of the same classes.

The stand-ins lie in folders that are called as the hub calls its models, so nothing of the page is changed. Their files
are as there: whole dual encoders with a preprocessor_config.json, the tokenizer's own class, its template in its config.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import mplug_owl_cli
from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.conversation import Conversation, Message, Picture
from mplug_owl.model.build import build
from mplug_owl.model.load import Owl, load
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.trainable import parts_of
from tests.model.families import BY_NAME, CHATML, SPLIT, TEXT
from tests.tiny import picture

PAGE = Path(__file__).parents[1] / "docs" / "any-language-model.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORT = [f"--set={setting}" for setting in ("steps=2", "batch=2", "micro_batch=2", "workers=0")]
SEEN = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TOLD = {**SEEN, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
THINKS = ("<tool_call>", "<tool_response>", "<think>", "</think>")


def write_eyes(folder: Path, kind: str, **vision: Any) -> None:
    """A whole dual encoder, as the hub has it: an owl takes the half that sees."""
    text = {**SEEN, "vocab_size": 40, "max_position_embeddings": 8, "projection_size": 32}
    AutoModel.from_config(
        AutoConfig.for_model(kind, vision_config={**SEEN, "image_size": 32, "patch_size": 16, **vision}, text_config=text)
    ).save_pretrained(folder)
    common = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
    if kind == "siglip":
        own: dict[str, Any] = {
            "resample": 2,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "size": {"height": 32, "width": 32},
        }
    else:
        own = {"resample": 3, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "size": {"shortest_edge": 32}}
    settings = {"image_processor_type": "SiglipImageProcessor" if kind == "siglip" else "CLIPImageProcessor", **common, **own}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def write_qwen3(folder: Path) -> None:
    """Qwen3's files: its special tokens after the others, a table with rows to spare, two end tokens, bf16."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    first = train(made, [])
    added = {first + index: name for index, name in enumerate((*CHATML, *THINKS))}
    write_tokenizer(folder, made, added, "Qwen2Tokenizer", "qwen3", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    end, turn = first, first + 2
    sizes = {**TOLD, "vocab_size": first + 64, "bos_token_id": end, "eos_token_id": turn, "max_position_embeddings": 40960}
    config = AutoConfig.for_model("qwen3", **sizes)
    settings = GenerationConfig(
        eos_token_id=[turn, end], pad_token_id=end, bos_token_id=end, do_sample=True, temperature=0.6, top_k=20, top_p=0.95
    )
    write_language(folder, config, settings)


def write_smollm2(folder: Path) -> None:
    """SmolLM2's files: special tokens in front, a begin token that opens a turn, the end of a turn as padding, bf16."""
    made = Tokenizer(models.BPE())
    digits, bytewise = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise])
    size = train(made, [*CHATML])
    names = {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    write_tokenizer(folder, made, dict(enumerate(CHATML)), "GPT2Tokenizer", "smollm2", **names)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = AutoConfig.for_model("llama", **TOLD, vocab_size=size, max_position_embeddings=8192, **ids)
    write_language(folder, config, GenerationConfig(**ids))


def train(made: Tokenizer, special: list[str]) -> int:
    """Learn merges; how many entries there are then."""
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    )
    return made.get_vocab_size()


def write_tokenizer(folder: Path, made: Tokenizer, added: dict[int, str], kind: str, family: str, **names: str) -> None:
    """tokenizer.json, vocab.json, merges.txt and tokenizer_config.json as the hub has them."""
    folder.mkdir(parents=True)
    made.model.save(str(folder))
    control = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    tokens = [{"id": at, "content": name, **control, "special": name not in THINKS} for at, name in added.items()]
    values = {**json.loads(made.to_str()), "added_tokens": tokens}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token.pop("id")): token for token in tokens},
        "chat_template": BY_NAME[family].template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "tokenizer_class": kind,
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_language(folder: Path, config: Any, settings: GenerationConfig) -> None:
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    model.generation_config = settings
    model.save_pretrained(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the hub's names are folders, with the data that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    write_eyes(Path("google/siglip2-base-patch16-224"), "siglip")
    write_eyes(Path("openai/clip-vit-base-patch16"), "clip")
    write_qwen3(Path("Qwen/Qwen3-0.6B"))
    write_smollm2(Path("HuggingFaceTB/SmolLM2-135M-Instruct"))
    Path("pictures").mkdir()
    for number in range(2):
        picture(number).save(f"pictures/{number}.png")
    picture(3).save("photo.jpg")
    Path("pictures/captions.csv").write_text("image,caption\n0.png,A red cat.\n1.png,Two dogs.\n")
    Path("pictures/questions.csv").write_text("image,question,answer\n0.png,What is it?,A cat.\n1.png,What is it?,Two dogs.\n")
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello there!"}]
    Path("text.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    return tmp_path


def run_page(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Recipe]:
    """Write the page's file of this name, type the page's commands for it, and give the two recipes."""
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    [text] = [text for language, text in blocks if language == "python" and text.startswith(f"# {name}.py\n")]
    [commands] = [text for language, text in blocks if language == "sh" and f"./{name}.py:pretrain" in text]
    Path(f"{name}.py").write_text(text)
    verbs = []
    for line in commands.splitlines():
        words = re.findall(r'"[^"]*"|\S+', line)
        verbs.append(words[1])
        typed = [word.strip('"') for word in words] + (SHORT if words[1] == "train" else [])
        typed += ["--max-new-tokens=4"] if words[1] == "chat" else []
        monkeypatch.setattr(sys, "argv", typed)
        with pytest.raises(SystemExit) as left:
            mplug_owl_cli.main()
        assert not left.value.code, line
    assert verbs == ["plan", "train", "train", "chat"]
    spec = importlib.util.spec_from_file_location(name, f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pretrain(), module.instruct()


def changed(before: Owl, after: Owl) -> set[str]:
    """The modules of which a weight is another."""
    weights = [
        {
            part: [weight for module in modules for weight in module.parameters()]
            for part, modules in parts_of(owl.model).items()
        }
        for owl in (before, after)
    ]
    return {
        part
        for part in weights[0]
        if not all(torch.equal(one.float(), two.float()) for one, two in zip(weights[0][part], weights[1][part], strict=True))
    }


def own_ids(folder: str, picture_ids: list[int]) -> list[int]:
    """What the family's own tokenizer and template make of the question, with a picture's positions where it stands."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "<image>What is this?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    front, back = (tokenizer(half, add_special_tokens=False)["input_ids"] for half in text.split("<image>"))
    return [*front, *picture_ids, *back]


@pytest.mark.parametrize(
    ("name", "classes", "positions", "adapted"),
    [
        ("siglip_qwen", ("SiglipVisionModel", "Qwen3Model"), 65, {"q_proj", "v_proj"}),
        (
            "clip_smol",
            ("CLIPVisionModel", "LlamaModel"),
            33,
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        ),
    ],
)
def test_the_pages_recipe_runs_from_plan_to_chat(
    name: str, classes: tuple[str, str], positions: int, adapted: set[str], hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run_page(name, monkeypatch)
    begun, seeing, talking = build(first.modules, [], first.seed), load(f"runs/{first.name}"), load(f"runs/{second.name}")

    assert (type(talking.model.model.vision_tower).__name__, type(talking.model.model.language_model).__name__) == classes
    assert changed(begun, seeing) == {part for part, tuning in vars(first.trainable).items() if tuning == "full"}
    assert changed(seeing, talking) <= {"language"}
    learned = load_file(Path("runs", second.name, "adapter", "adapter_model.safetensors"))
    assert {re.findall(r"\.(\w+)\.lora_B", key)[0] for key, weight in learned.items() if "lora_B" in key} == adapted
    assert all(weight.any() for key, weight in learned.items() if "lora_B" in key)
    assert not [key for key in learned if "language_model" not in key]

    assert first.modules.language is not None
    shown = [talking.model.config.image_token_id] * positions
    asked = Conversation((Message("user", (Picture(Image.open("photo.jpg")), "What is this?")),))
    seen = list[list[int]]()
    hook = talking.model.register_forward_pre_hook(
        lambda model, args, inputs: seen.extend(inputs["input_ids"].tolist()), with_kwargs=True
    )
    assert len(OwlChatModel(talking).answers([asked], Decoding(max_new_tokens=1))) == 1
    hook.remove()
    assert seen == [own_ids(first.modules.language, shown)]
