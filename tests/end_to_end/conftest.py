"""Facts outside the test modules tell what they saw when they fail."""

import pytest

pytest.register_assert_rewrite("client_answers", "client_facts")
