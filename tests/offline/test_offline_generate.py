"""`LLM` in the call forms of vLLM, against real processes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from gllm import LLM, RequestOutput, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["the quick brown fox", "hello", "the lazy dog jumps over the world " * 4, "one two three", "dog"]
CONVERSATION = [{"role": "user", "content": "hello there"}]


def tokens(results: list[RequestOutput]) -> list[list[int]]:
    return [result.outputs[0].token_ids for result in results]


def test_results_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    lengths = [20, 1, 9, 3, 14]
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in lengths]
    results = llm.generate(PROMPTS, params, use_tqdm=False)
    assert [result.prompt for result in results] == PROMPTS
    assert [len(ids) for ids in tokens(results)] == lengths
    for result in results:
        assert result.finished
        assert result.prompt_token_ids == llm.get_tokenizer().encode(result.prompt or "")
        output = result.outputs[0]
        assert (output.index, output.finish_reason, output.stop_reason) == (0, "length", None)
        after = [*result.prompt_token_ids, *output.token_ids]
        assert llm.get_tokenizer().decode(after).endswith(output.text)


def test_greedy_tokens_are_the_same_alone_and_in_a_batch(llm: LLM) -> None:
    together = tokens(llm.generate(PROMPTS * 3, GREEDY, use_tqdm=False))
    alone = [tokens(llm.generate(prompt, GREEDY, use_tqdm=False))[0] for prompt in PROMPTS]
    assert together == alone * 3


def test_every_form_of_a_prompt_means_the_same(llm: LLM) -> None:
    text = PROMPTS[0]
    ids = llm.get_tokenizer().encode(text)
    forms = [text, ids, {"prompt": text}, {"prompt_token_ids": ids}]
    expected = tokens(llm.generate(text, GREEDY, use_tqdm=False))
    assert tokens(llm.generate(forms, GREEDY, use_tqdm=False)) == expected * 4
    for form in forms:
        assert tokens(llm.generate(form, GREEDY, use_tqdm=False)) == expected
    assert llm.generate([ids], GREEDY, use_tqdm=False)[0].prompt is None


def test_no_prompts_give_no_results(llm: LLM) -> None:
    assert llm.generate([]) == []


def test_seeded_samples_repeat_and_the_default_is_sixteen_tokens(llm: LLM) -> None:
    seeded = SamplingParams(seed=7, ignore_eos=True)
    first, second = llm.generate([PROMPTS[0]] * 2, seeded, use_tqdm=False)
    assert first.outputs[0].token_ids == second.outputs[0].token_ids
    assert len(first.outputs[0].token_ids) == 16


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    whole = llm.generate(PROMPTS[0], GREEDY, use_tqdm=False)[0].outputs[0]
    stop = whole.text[3:5]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop=stop)
    cut = llm.generate(PROMPTS[0], params, use_tqdm=False)[0].outputs[0]
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (
        whole.text[: whole.text.index(stop)],
        "stop",
        stop,
    )
    assert len(cut.token_ids) <= len(whole.token_ids)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ([1] * 100_000, "maximum context length"),
        ({"prompt_token_ids": []}, "no tokens"),
        ({"prompt_token_ids": [10**8]}, "token id"),
        ({"text": "wrong key"}, "a prompt is a string"),
        (3.5, "a prompt is a string"),
    ],
)
def test_a_wrong_prompt_is_named_before_anything_runs(llm: LLM, prompt: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^prompt 1: .*{sentence}"):
        llm.generate(["fine", prompt, "fine"], GREEDY)  # type: ignore[list-item]


def test_sampling_params_must_be_one_or_one_for_each_prompt(llm: LLM) -> None:
    with pytest.raises(ValueError, match="2 prompts, but 3 sampling_params"):
        llm.generate(["a", "b"], [GREEDY] * 3)


def test_an_answer_ends_with_the_context(llm: LLM) -> None:
    length = llm.max_model_len
    params = SamplingParams(temperature=0, max_tokens=10**6, ignore_eos=True)
    output = llm.generate({"prompt_token_ids": [5] * (length - 4)}, params, use_tqdm=False)[0].outputs[0]
    assert (len(output.token_ids), output.finish_reason) == (4, "length")


def test_many_more_prompts_than_the_queue_holds(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    prompts = [f"number {index}" for index in range(10 * llm.config.scheduler.max_num_queued_reqs)]
    assert [result.prompt for result in llm.generate(prompts, params, use_tqdm=False)] == prompts


def test_chat_answers_one_conversation_or_several(llm: LLM) -> None:
    (one,) = llm.chat(CONVERSATION, GREEDY, use_tqdm=False)
    several = llm.chat([CONVERSATION, [{"role": "user", "content": "what?"}], CONVERSATION], GREEDY)
    assert one.prompt is not None
    assert "hello there" in one.prompt
    assert one.prompt_token_ids == llm.chat_prompt(CONVERSATION)
    assert tokens(several)[0] == tokens(several)[2] == tokens([one])[0]
    with pytest.raises(ValueError, match=r"^prompt 1: messages\[0\].role"):
        llm.chat([CONVERSATION, [{"role": "nobody", "content": ""}]])
    with pytest.raises(ValueError, match="must be an object with role and content"):
        llm.chat("hello")


def test_a_streamed_chat_is_the_chat(llm: LLM) -> None:
    expected = llm.chat(CONVERSATION, GREEDY, use_tqdm=False)[0].outputs[0]
    deltas = list(llm.stream_chat(CONVERSATION, GREEDY))
    assert "".join(delta.text for delta in deltas) == expected.text
    assert [token for delta in deltas for token in delta.token_ids] == expected.token_ids
    assert deltas[-1].finish_reason == expected.finish_reason


def test_a_stream_that_is_left_early_leaves_the_engine_free(llm: LLM) -> None:
    stream = llm.stream_chat(CONVERSATION, SamplingParams(max_tokens=None, ignore_eos=True))
    next(stream)
    stream.close()
    assert len(tokens(llm.generate(PROMPTS, GREEDY, use_tqdm=False))) == len(PROMPTS)
    assert llm._engine.text.engine.num_open == 0


def test_the_progress_bar_counts_requests_and_tokens(llm: LLM, capfd: pytest.CaptureFixture[str]) -> None:
    llm.generate(PROMPTS, GREEDY)
    shown = capfd.readouterr().err
    assert f"{len(PROMPTS)}/{len(PROMPTS)}" in shown
    assert "toks/s" in shown
    llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert "toks/s" not in capfd.readouterr().err


def test_calls_work_where_a_loop_runs_already(llm: LLM) -> None:
    async def notebook_cell() -> list[RequestOutput]:
        return llm.generate(PROMPTS[:1], GREEDY, use_tqdm=False)

    assert len(asyncio.run(notebook_cell())) == 1


def test_threads_may_share_one_engine(llm: LLM) -> None:
    expected = tokens(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    with ThreadPoolExecutor(4) as threads:
        for results in threads.map(lambda _: llm.generate(PROMPTS, GREEDY, use_tqdm=False), range(4)):
            assert tokens(results) == expected


def test_without_parameters_the_checkpoints_own_are_used(llm: LLM) -> None:
    """The demo's generation_config.json says `do_sample: false`."""
    default = llm.get_default_sampling_params()
    assert default == SamplingParams(temperature=0)
    assert tokens(llm.generate(PROMPTS, use_tqdm=False)) == tokens(
        llm.generate(PROMPTS, default, use_tqdm=False)
    )
    assert tokens(llm.chat(CONVERSATION, use_tqdm=False)) == tokens(llm.chat(CONVERSATION, default))


def test_a_chat_may_go_on_with_its_last_words(llm: LLM) -> None:
    begun = [*CONVERSATION, {"role": "assistant", "content": "hello you"}]
    params = SamplingParams(temperature=0, max_tokens=2)
    (result,) = llm.chat(begun, params, add_generation_prompt=False, continue_final_message=True)
    assert result.prompt is not None
    assert result.prompt.endswith("hello you")
    assert result.prompt_token_ids == llm.get_tokenizer().encode(result.prompt, add_special_tokens=False)
    (closed,) = llm.chat(CONVERSATION, params, add_generation_prompt=False)
    assert closed.prompt_token_ids == llm.chat_prompt(CONVERSATION)[: len(closed.prompt_token_ids)]
    with pytest.raises(ValueError, match="exclude each other"):
        llm.chat(begun, params, continue_final_message=True)
