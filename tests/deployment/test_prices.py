"""The costs in the manual are those that the script computes, for what the template makes."""

from __future__ import annotations

from scripts.aws import prices
from scripts.aws.template import render
from tests.support.documentation import DOCS


def count(kind: str, rooms: int = 20) -> int:
    """How many resources of a kind there are."""
    return sum(resource["Type"] == kind for resource in render(rooms)["Resources"].values())


def test_the_manual_shows_the_table_as_it_is_computed() -> None:
    assert prices.table() in DOCS["deployment"].read_text(encoding="utf-8")


def test_what_is_counted_is_what_is_made() -> None:
    endpoints = [
        resource
        for resource in render()["Resources"].values()
        if resource["Type"] == "AWS::EC2::VPCEndpoint" and resource["Properties"]["VpcEndpointType"] == "Interface"
    ]
    assert sum(len(endpoint["Properties"]["SubnetIds"]) for endpoint in endpoints) == prices.ENDPOINT_ZONES
    assert count("AWS::CloudWatch::Alarm", rooms=20) == 20 + prices.OTHER_ALARMS
    assert count("AWS::RDS::DBInstance") == 2
    template = render()
    assert template["Parameters"]["InstanceCount"]["Default"] == prices.LOADS[0].instances
    assert template["Parameters"]["InstanceType"]["Default"] == prices.LOADS[0].instance
    assert template["Parameters"]["DatabaseInstanceClass"]["Default"] == prices.LOADS[0].database


def test_the_arithmetic_of_the_manual_is_that_of_the_script() -> None:
    """The figures that the text works out for the load in the middle."""
    _, medium, _ = prices.LOADS
    assert round(4 * (0.05132 * 730 + 16 * 0.08)) == 155
    assert round(medium.stored_gb) == 194
    assert round(medium.out_gb) == 1774
    assert medium.calls_per_second == 400
    assert round(7 * 2 * 730 * 0.01) == 102


def test_a_month_costs_more_with_every_load() -> None:
    totals = [prices.total(load) for load in prices.LOADS]
    assert totals == sorted(totals)
    assert all(cost(load) > 0 for load in prices.LOADS for _, cost in prices.ITEMS)
