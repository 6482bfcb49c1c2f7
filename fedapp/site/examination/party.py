"""A party's folder: its files, policy and data, and the way to its server; before it joins, too."""

from __future__ import annotations

import ssl
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime

import httpx

from fedapp.config.build import ConfigError, build
from fedapp.config.policy import PolicyError, read_policy
from fedapp.core.errors import RowError, one_line
from fedapp.planning.preflight import check_config
from fedapp.site.certificates import CertificateFault, days_left, read_certificate, shake_hands
from fedapp.site.examination.finding import Finding, validity
from fedapp.site.examination.machine import disk, hub, memory, versions
from fedapp.site.layout import PartySite, SiteError, address
from fedapp.site.serving import check_party

# A SuperLink takes what a party signed up to 300 s before its own time, and 5 s after it.
MOST_AHEAD, MOST_BEHIND = 5.0, 300.0


def of_party(site: PartySite, overrides: Sequence[str]) -> Iterator[Finding]:
    """A party's files, policy, data, and the way to its server; before it joins, too."""
    yield from versions()
    try:
        check_party(site)
        yield Finding(f"party {site.party} of {site.parties}: key, certificate and policy can be used")
    except SiteError as error:
        yield Finding(str(error), "correct it; docs/security.md shows a policy")
        return
    try:
        yield validity("the authority's certificate", days_left(read_certificate(site.authority)))
    except CertificateFault as fault:
        yield Finding(str(fault), "ask the server's owner for ca.crt")
        return
    yield from _data(site, overrides)
    if overrides:
        try:
            config = check_config(overrides)
            yield from memory(config)
            if read_policy(str(site.policy)).network:
                yield from hub(config)
        except ConfigError as error:
            yield Finding(str(error), "correct the setting")
    yield from _way(site)
    yield from disk(site.folder)


def _data(site: PartySite, overrides: Sequence[str]) -> Iterator[Finding]:
    """Rows that the policy gives to runs, read as a run would."""
    try:
        folder = read_policy(str(site.policy)).data
    except PolicyError as error:
        yield Finding(str(error), "correct the policy")
        return
    if folder is None:
        yield Finding("the policy names no data: only benchmarks that come with fedapp can be run")
        return
    typed = {word.partition("=")[0] for word in overrides}
    own = [] if "benchmark" in typed else ["benchmark=own"]
    place = [] if "benchmark.data_dir" in typed else [f"benchmark.data_dir={folder}"]
    try:
        benchmark = build(check_config([*own, *place, *overrides])["benchmark"], "benchmark")
        for split in ("train", "test"):
            rows = Counter(benchmark.load(split)["task"])
            tasks = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
            yield Finding(f"{sum(rows.values())} {split} rows in {folder} ({tasks})")
    except RowError as error:  # the owner's own rows: what stands in them may be shown
        yield Finding(one_line(error.private), "correct the file (docs/data.md)")
    except (ConfigError, ValueError, OSError, ImportError) as error:
        yield Finding(
            one_line(error), f"put rows to {folder}/<task>/train.jsonl and test.jsonl (docs/data.md)"
        )


def _way(site: PartySite) -> Iterator[Finding]:
    """The way to the server: TLS, and the two clocks."""
    where = address(site.host, site.port)
    try:
        shake_hands(site.host, site.port, site.authority)
    except CertificateFault as fault:
        remedy = (
            "ask the server's owner: another ca.crt, or `fedapp site renew`; see that this clock is right"
        )
        yield Finding(str(fault), remedy)
        return
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "the server may not run yet; else see that host and port are right and no firewall closes it"
        yield Finding(f"{where} does not answer ({reason})", remedy)
        return
    yield Finding(f"{where} answers, and {site.authority.name} vouches for it")
    ahead = clock_ahead(site)
    if ahead is None:
        return
    if not -MOST_BEHIND < ahead < MOST_AHEAD:
        late = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
        yield Finding(
            f"this clock is {late}: it will refuse what this party signs", "set both by NTP (timedatectl)"
        )
    else:
        yield Finding(f"the clocks agree within {abs(ahead) + 1:.0f} s")


def clock_ahead(site: PartySite) -> float | None:
    """Seconds, to one or so, that this clock is ahead of the server's; None if it does not say its time."""
    try:
        url = f"https://{address(site.host, site.port)}/"
        trust = ssl.create_default_context(cafile=str(site.authority))
        said = httpx.get(url, verify=trust, timeout=5.0, trust_env=False).headers.get("date")
    except httpx.HTTPError:
        return None
    return time.time() - parsedate_to_datetime(said).timestamp() if said else None
