import pytest


@pytest.fixture
def front(shared):
    """The bitflow that a module's tests share, as one test uses it."""
    shared.begin()
    return shared
