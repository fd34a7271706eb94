"""Every module that writes a state of a reconnection or a notification records its event, or is listed here as one that need not."""

import ast

from tests.unit.test_imports import imports, is_under, trees

RECORD = "worker.store.events.recording.record"
#: Modules that write states and record nothing, and why.
TELL_NOTHING = {
    "worker.store.reconnections.changes": "made into one UPDATE here, which Transitions.apply runs and tells",
    "worker.store.reconnections.claims": "lease, release, recover",
    "worker.store.reconnections.clicked": "remind",
    "worker.store.reconnections.notices": "an INSERT that opening.open_all runs and tells",
    "worker.store.notifications.claim_statements": "claim, release",
    "worker.store.notifications.claims": "recover",
}


def writes_states(tree: ast.Module) -> bool:
    """Whether a module has ``values(state=…)``, ``values({n.state: …})``, or a dict with the key ``state`` for an INSERT or UPDATE."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values":
            if any(keyword.arg == "state" for keyword in node.keywords):
                return True
            if any(isinstance(given, ast.Dict) and any(map(_is_state, given.keys)) for given in node.args):
                return True
        if isinstance(node, ast.Dict) and any(
            isinstance(key, ast.Constant) and key.value == "state" for key in node.keys
        ):
            return True
    return False


def _is_state(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Attribute) and key.attr == "state"


def test_every_module_that_writes_a_state_records_what_it_tells() -> None:
    writing = {
        module
        for module, tree in trees().items()
        if is_under(module, "worker.store.reconnections") or is_under(module, "worker.store.notifications")
        if writes_states(tree)
    }
    silent = {module for module in writing if RECORD not in imports()[module]}
    assert silent == set(TELL_NOTHING)
    assert len(writing - silent) >= 4
