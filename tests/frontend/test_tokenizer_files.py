"""The files beside the weights: what is read from them, and what is said when they are wrong."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import byte_level_backend
from tokenizers import processors

from gllm.frontend.tokenizer import Tokenizer
from gllm.process import StartError


def save(root: Path, config: dict[str, Any], backend: Any = None) -> Path:
    (backend or byte_level_backend()).save(str(root / "tokenizer.json"))
    (root / "tokenizer_config.json").write_text(json.dumps(config))
    return root


def test_tokens_may_be_written_as_texts_or_objects(tmp_path: Path) -> None:
    config = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": "<|endoftext|>"}
    loaded = Tokenizer.load(save(tmp_path, config))
    assert loaded.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def test_the_special_tokens_map_fills_what_the_config_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text(
        '{"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>"}'
    )
    loaded = Tokenizer.load(save(tmp_path, {"eos_token": "<|im_end|>"}))
    assert loaded.special_tokens == {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}


def test_chat_templates_come_as_text_as_list_or_as_file(tmp_path: Path) -> None:
    assert Tokenizer.load(save(tmp_path, {"chat_template": "a"})).chat_templates == {"default": "a"}
    named = [{"name": "default", "template": "b"}, {"name": "tool_use", "template": "c"}]
    assert Tokenizer.load(save(tmp_path, {"chat_template": named})).chat_templates == {
        "default": "b",
        "tool_use": "c",
    }
    (tmp_path / "chat_template.jinja").write_text("d")
    assert Tokenizer.load(tmp_path).chat_templates["default"] == "d"


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("wanted", [True, False, None])
def test_the_beginning_of_text_is_put_in_front_once_or_not_at_all(
    tmp_path: Path, in_file: bool, wanted: bool | None
) -> None:
    backend = byte_level_backend()
    bos = backend.token_to_id("<|endoftext|>")
    if in_file:
        backend.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
        )
    config = {"bos_token": "<|endoftext|>"} | ({} if wanted is None else {"add_bos_token": wanted})
    loaded = Tokenizer.load(save(tmp_path, config, backend))
    plain = loaded.encode("hello", add_special_tokens=False)
    expected = in_file if wanted is None else wanted
    assert loaded.encode("hello") == ([bos] if expected else []) + plain


def test_a_length_limit_for_training_cuts_no_prompt(tmp_path: Path) -> None:
    backend = byte_level_backend()
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    assert len(Tokenizer.load(save(tmp_path, {}, backend)).encode("x" * 50)) == 50


def test_a_token_that_only_the_config_calls_special_is_hidden(tmp_path: Path) -> None:
    backend = byte_level_backend()
    backend.add_tokens(["<end>"])
    loaded = Tokenizer.load(save(tmp_path, {"eos_token": "<end>"}, backend))
    assert loaded.decode(loaded.encode("hello<end>")) == "hello"
    assert loaded.decode(loaded.encode("hello<end>"), skip_special_tokens=False) == "hello<end>"


def test_files_that_cannot_be_used_are_named_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    save(tmp_path, {})
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(StartError, match=r"tokenizer_config\.json is not JSON"):
        Tokenizer.load(tmp_path)
    save(tmp_path, {})
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StartError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    loaded = Tokenizer.load(save(tmp_path, {}))
    loaded.check_fits(loaded.vocab_size)
    with pytest.raises(StartError, match="rows for"):
        loaded.check_fits(loaded.vocab_size - 1)


def test_literal_encoding_in_one_thread_changes_nothing_in_another(tokenizer: Tokenizer) -> None:
    text = "hello<|im_end|>"
    expected = {"special": tokenizer.encode(text), "literal": tokenizer.encode_literally(text)}
    assert len(expected["literal"]) > len(expected["special"])
    seen: list[bool] = []

    def encode(name: str) -> None:
        work = tokenizer.encode if name == "special" else tokenizer.encode_literally
        seen.append(all(work(text) == expected[name] for _ in range(200)))

    threads = [threading.Thread(target=encode, args=(name,)) for name in [*expected] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4
