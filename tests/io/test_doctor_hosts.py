"""`constellation doctor` on hosts of their own, with a real firewall between two of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers
from tests.io.hosts import HostCluster, host_cluster, needs_hosts

pytestmark = [
    pytest.mark.root,
    needs_hosts,
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables (`nft`), for a firewall"),
]


def firewall(made: HostCluster, at: int, other: int, verdict: str) -> None:
    """Let host ``at`` take nothing from host ``other`` on the port of its node."""
    rules = (
        "add table inet doctor; add chain inet doctor input { type filter hook input priority 0; }; "
        f"add rule inet doctor input ip saddr {made.hosts.address(other)} tcp dport 5000 ct state new {verdict}"
    )
    subprocess.run([*made.hosts.on(at), "nft", rules], check=True, capture_output=True, text=True)


def wrong(made: HostCluster) -> dict[str, dict[str, Any]]:
    """What the doctor finds wrong, by where; and who fails must make the exit code 1."""
    done = made.run("doctor", "--json", made.bridge, timeout=60)
    found = {each["where"]: each for each in json.loads(done.stdout) if each["state"] == "wrong"}
    assert done.returncode == (1 if found else 0), done
    return found


def test_a_firewall_between_two_hosts_is_found_and_named_in_both_directions(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """Both are well for the master. One direction is told alone; a firewall that rejects is told as well as one that drops."""
    with host_cluster(tmp_path, leftovers, 3) as made:
        assert wrong(made) == {}
        firewall(made, 3, 2, "drop")
        found = wrong(made)
        assert list(found) == ["n2 -> n3"]
        assert found["n2 -> n3"]["what"] == "port of 10.99.0.3:5000"
        assert "no answer within" in found["n2 -> n3"]["value"]
        assert "on n3" in found["n2 -> n3"]["mend"]
        assert "open TCP port 5000 for n2" in found["n2 -> n3"]["mend"]
        firewall(made, 2, 3, "reject with tcp reset")
        found = wrong(made)
        assert set(found) == {"n2 -> n3", "n3 -> n2"}
        assert "connection refused" in found["n3 -> n2"]["value"]
        assert "have the firewall let n3 in" in found["n3 -> n2"]["mend"]
