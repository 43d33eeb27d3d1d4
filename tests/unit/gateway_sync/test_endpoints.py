"""Which replicas a gateway is given."""

from servingplan.gateway_sync.endpoints import addresses_of


def slice_of(service, *endpoints, port=8000, name="http"):
    return {
        "metadata": {"name": f"{service}-x", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "other", "port": 9}, {"name": name, "port": port}],
        "endpoints": [{"addresses": [address], "conditions": conditions} for address, conditions in endpoints],
    }


READY = {"ready": True, "serving": True, "terminating": False}
NOT_READY = {"ready": False, "serving": False, "terminating": False}
ENDING = {"ready": False, "serving": True, "terminating": True}
ENDING_BADLY = {"ready": False, "serving": False, "terminating": True}


def test_ready_replicas_of_all_slices_of_a_service():
    found = addresses_of([slice_of("a", ("10.0.0.2", READY)), slice_of("a", ("10.0.0.1", {}), port=8001)])
    assert found == {"a": (("10.0.0.1", 8001), ("10.0.0.2", 8000))}


def test_those_that_are_not_ready_or_end_get_nothing_while_others_are_ready():
    mixed = slice_of("a", ("10.0.0.1", READY), ("10.0.0.2", NOT_READY), ("10.0.0.3", ENDING))
    assert addresses_of([mixed]) == {"a": (("10.0.0.1", 8000),)}


def test_the_last_ones_serve_until_they_have_ended():
    last = slice_of("a", ("10.0.0.2", NOT_READY), ("10.0.0.3", ENDING), ("10.0.0.4", ENDING_BADLY))
    assert addresses_of([last]) == {"a": (("10.0.0.3", 8000),)}


def test_a_service_with_nobody_has_no_address():
    assert addresses_of([slice_of("a", ("10.0.0.2", NOT_READY))]) == {}


def test_slices_without_a_service_or_a_port_are_passed_over():
    empty = {"metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "a"}}, "ports": None, "endpoints": None}
    nobodys = {**slice_of("a", ("10.0.0.1", READY)), "metadata": {"name": "y"}}
    assert addresses_of([empty, nobodys]) == {}
