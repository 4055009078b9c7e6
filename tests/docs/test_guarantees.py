"""Each promise of the explanations names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

EXPLANATION = ROOT / "docs" / "explanation"
# The tests that hold each section of "Where it runs".
WHERE_IT_RUNS = {
    "gunicorn, uWSGI, uvicorn, gevent": [
        "test_each_answered_put_is_stored",
        "test_every_put_that_is_answered_is_stored_once",
        "test_a_child_keeps_no_connection_of_its_parent_open",
    ],
    "Database pools, memcached": [
        "test_children_do_not_read_rows_of_each_other",
        "test_children_do_not_read_memcached_replies_of_each_other",
        "test_a_later_child_shares_no_connection_that_the_supervisor_opened_meanwhile",
        "test_each_child_is_announced_before_its_first_item",
    ],
    "systemd, logs, mounts": [
        "test_a_systemd_that_does_not_read_ends_no_lease",
        "test_a_log_that_nobody_reads_ends_no_lease",
        "test_a_file_system_that_hangs_ends_no_lease",
        "test_silent_servers_end_no_lease_on_another_server",
        "test_a_late_renewal_is_logged_once",
    ],
    "Containers": [
        "test_the_first_process_reaps_orphans_and_obeys_a_stop",
        "test_signals_are_passed_on_and_the_exit_code_is_that_of_the_worker",
        "test_handlers_get_the_exit_status_of_their_programs",
        "test_the_process_that_does_the_work_is_announced",
    ],
    "Debuggers, swap": [
        "test_a_stopped_supervisor_ends_no_lease",
        "test_another_child_handles_items_behind_a_handler_that_holds_the_interpreters_lock",
        "test_a_child_that_was_stopped_begins_no_item_that_was_given_back",
        "test_items_that_the_claim_of_a_stopped_idle_child_takes_are_given_back",
        "test_an_idle_child_behind_a_thread_that_holds_the_lock_begins_no_item_that_was_given_back",
        "test_a_child_that_was_suspended_does_not_handle_an_item_it_has_lost",
    ],
    "A killed supervisor": [
        "test_an_orphan_whose_handler_hangs_is_killed",
        "test_the_lease_of_an_orphan_is_renewed_until_it_ends",
        "test_an_orphan_is_killed_at_its_time_limit_or_at_the_end_of_its_grace",
        "test_without_a_keeper_the_item_of_an_orphan_comes_back_when_the_lease_ends",
    ],
    "A lost consumer": [
        "test_items_behind_the_suspects_of_a_lost_consumer_do_not_wait_for_them",
        "test_a_consumer_gets_one_suspect_at_a_time_and_another_consumer_the_next",
    ],
    "Servers that are silent or refuse": [
        "test_silent_servers_delay_no_promise_of_the_supervisor",
        "test_a_queue_that_its_server_refuses_delays_no_other_queue_of_that_server",
        "test_a_successor_begins_after_the_items_of_its_predecessor_are_back",
    ],
    "Long grace, large processes": [
        "test_a_consumer_has_a_heartbeat_while_it_waits_within_a_long_grace",
        "test_threads_that_a_handler_left_do_not_delay_the_successor_of_their_process",
        "test_there_are_at_most_two_children_for_each_place",
    ],
    "Programs and forks of handlers": [
        "test_programs_of_handlers_have_the_usual_signal_handlers",
        "test_forks_of_handlers_inherit_no_signal_handlers_or_pipes",
        "test_programs_end_with_a_child_that_is_killed_or_crashes",
        "test_threads_and_programs_that_a_handler_left_may_finish",
        "test_threads_and_programs_that_outlast_the_grace_are_killed_and_logged",
    ],
    "Handlers": [
        "test_work_is_done_or_the_item_fails",
        "test_any_error_of_a_handler_fails_its_item",
        "test_after_a_handler_that_exhausts_the_file_descriptors_the_next_item_is_handled",
    ],
    "Users with few rights": [
        "test_whole_life_of_items_with_few_rights",
        "test_documented_rights_are_enough_for_the_operations_of_a_role",
        "test_nothing_is_put_without_one_of_the_rights",
        "test_a_server_on_which_scripts_may_not_ask_for_info",
    ],
    "Name servers": [
        "test_with_a_silent_name_server_a_call_ends_in_time",
        "test_a_known_address_is_used_while_the_name_server_is_silent",
        "test_the_addresses_of_a_name_share_the_time",
        "test_the_supervisor_has_no_thread_of_a_name_lookup_when_it_forks",
    ],
    "Firewalls, NAT": [
        "test_a_put_over_a_connection_that_was_forgotten_while_it_was_quiet",
        "test_an_aput_over_a_connection_that_was_forgotten_while_it_was_quiet",
        "test_forgotten_connections_of_the_same_age_cost_one_share_of_the_time",
    ],
    "TLS": [
        "test_all_connections_have_one_context",
        "test_a_renewed_file_is_read_again",
        "test_a_wrong_configuration_is_an_error_at_once",
    ],
    "Large payloads": [
        "test_a_claim_is_bounded_by_bytes_and_keeps_the_order",
        "test_a_batch_of_puts_is_bounded_by_bytes",
        "test_srq_consume_behind_a_slow_line",
        "test_other_clients_are_served_between_the_batches_of_large_puts",
        "test_a_consumer_handles_the_items_whose_replies_it_can_read",
    ],
    "Servers that may lose items": [
        "test_consumer_warns_once_of_each_server",
        "test_the_deployment_check_reports_a_cache_on_the_server_of_a_queue",
    ],
    "Many queues, several servers": [
        "test_a_queue_on_another_server_has_its_turn_before_later_queues",
        "test_a_single_item_costs_few_scripts",
        "test_a_consumer_of_many_queues",
    ],
    "Upgrades in place": [
        "test_a_consumer_reads_all_scripts_at_its_start",
        "test_a_producer_reads_all_scripts_at_its_start",
    ],
    "Logging": [
        "test_records_go_once_to_the_handlers_of_the_project",
    ],
    "Web images without the workers' dependencies": [
        "test_a_handler_that_cannot_be_imported_stops_no_other_command",
    ],
    "Tests of your project": [
        "test_a_consumer_in_the_process_of_a_test_closes_only_connections_that_it_opened",
        "test_a_timed_wait_ends_under_a_frozen_clock",
    ],
}


def rows(page: Path) -> list[list[str]]:
    """The cells of all rows of the tables of a page, but for the lines of dashes."""
    lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]


def matrix() -> dict[str, list[str]]:
    """The names of the tests in each row of the crash matrix."""
    faults = rows(EXPLANATION / "guarantees.md")
    first = faults.index(["fault", "what happens", "shown by"]) + 1
    return {fault: re.findall(r"`(\w+)`", shown) for fault, _, shown in faults[first:] if not fault.startswith("**")}


@pytest.fixture(scope="module")
def tests() -> str:
    """The text of all tests but this one."""
    files = (ROOT / "tests").rglob("test_*.py")
    return "".join(path.read_text("utf-8") for path in files if path != Path(__file__))


def test_each_section_of_where_it_runs_has_its_tests(tests):
    places = re.findall(r"^### (.+)$", (EXPLANATION / "where-it-runs.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(places) == sorted(WHERE_IT_RUNS)
    missing = [name for names in WHERE_IT_RUNS.values() for name in names if f"def {name}(" not in tests]
    assert missing == []


def test_each_fault_of_the_crash_matrix_has_its_tests(tests):
    faults = matrix()
    assert len(faults) > 30
    without = [fault for fault, names in faults.items() if not names]
    missing = [name for names in faults.values() for name in names if f"def {name}(" not in tests]
    assert without + missing == []
