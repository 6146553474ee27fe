"""Made-up prompts agree exactly where the blocks of their trace do."""

from made_up import trace

from gllm.simulate.prompts import Prompts


def test_prompts_agree_exactly_where_their_blocks_do() -> None:
    made = trace(
        *[(0.0, 30, 1), (0.0, 25, 1), (0.0, 30, 1), (0.0, 30, 1)],
        block_size=10,
        blocks=((0, 1, 2), (0, 1, 3), (4, 1, 2), ()),
    )
    prompts = Prompts(made, vocab_size=500)
    first, second, third, alone = (prompts.tokens(number).tolist() for number in range(4))
    assert [len(tokens) for tokens in (first, second, third, alone)] == [30, 25, 30, 30]
    assert first[:20] == second[:20]
    assert first[20:25] != second[20:]
    assert first[:10] != third[:10]
    assert first[10:] == third[10:]
    assert alone[:10] not in (first[:10], third[:10])
    assert first == Prompts(made, vocab_size=500).tokens(0).tolist()
    assert all(0 <= token < 500 for token in first)
