"""Each line of the threat model is held by tests."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "howto" / "secure.md").read_text("utf-8")
HELD = {
    "a visitor of the site": ["test_token", "test_live_needs_no_token"],
    "staff with `view`": [
        "test_each_permission_opens_its_own_actions",
        "test_each_user_sees_and_does_only_what_the_permissions_allow",
    ],
    "staff with `view_payload`": [
        "test_a_search_does_not_find_redacted_text",
        "test_the_reach_of_a_search_reveals_nothing_that_is_redacted",
        "test_a_search_reads_payloads_only_for_users_who_may_see_them",
    ],
    "staff with `put`": ["test_only_true_from_a_rule_allows_access"],
    "a page of another site that staff visit": ["test_actions_need_the_csrf_token"],
    "somebody who puts HTML or control characters into a payload": [
        "test_texts_from_outside_are_escaped",
        "test_control_characters_of_a_payload_do_not_reach_the_terminal",
    ],
    "the holder of `TOKEN`": ["test_token"],
    "a reader of logs, metrics or traces": [
        "test_errors_do_not_quote_the_payload",
        "test_a_serializer_that_quotes_the_payload_in_its_error_tells_it_nobody",
        "test_secrets_are_masked_and_variables_left_out",
        "test_the_setting_and_the_words_reach_the_log",
    ],
    "a program with the rights of a viewer on the server": [
        "test_viewer_sees_everything_and_leaves_nothing_in_the_log"
    ],
    "a program with the rights of a producer": [
        "test_documented_rights_are_enough_for_the_operations_of_a_role",
        "test_the_user_can_do_everything",
    ],
    "a program with all rights on the server": ["test_whole_life_of_items_with_few_rights"],
    "a payload that hangs or kills its handler": [
        "test_a_handler_that_exceeds_the_time_limit_is_killed",
        "test_item_is_dead_when_its_crashes_are_used_up",
    ],
    "a very large payload": ["test_too_large_payload_is_refused"],
    "somebody on the network": ["test_a_certificate_for_another_name_is_not_accepted"],
    "another user of the development machine": [
        "test_serves_on_a_private_socket_only",
        "test_data_are_private_even_in_an_open_directory",
    ],
    "somebody with the disk or a backup of the server": [],
}


def test_each_line_of_the_threat_model_is_held() -> None:
    table = PAGE.partition("## Threat model")[2]
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", table, re.MULTILINE)
    assert rows[1:] == list(HELD)
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = {name for names in HELD.values() for name in names if f"def {name}(" not in tests}
    assert missing == set()
