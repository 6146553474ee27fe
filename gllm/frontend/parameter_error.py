"""The one error for what a caller asks and cannot have."""


class ParameterError(ValueError):
    """A value that cannot be honoured; `param` names it, `code` is the short word of the API, if any."""

    def __init__(self, param: str | None, sentence: str, code: str | None = None) -> None:
        super().__init__(sentence)
        self.param = param
        self.code = code
