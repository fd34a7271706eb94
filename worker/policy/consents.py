"""Until when does a consent last, if the application keeps no date?

A bank lets a customer's consent last for some days (``institutions.consent_days``), counted from the day on which the customer gave it.
That is the day on which the member came back through us. If it never did, it is the day on which the member was first seen. From this
``members.token_expires_at`` is *reckoned*, and the notices ahead of an expiry follow from that date.

A reckoned date is a guess, since we did not see the consent. So it leads to notices only:

- It is never reckoned into the past. Example: 90 days are entered for a member that was first seen 200 days ago. Its consent
  was renewed since, or it would be broken. So its days count from now.
- When the date passes, the member does not count as broken. Only MX's status says whether the consent ended. The next date is reckoned
  from the date that passed, or from now if the next date has passed as well.
"""

from datetime import datetime, timedelta

#: A consent lasts for at least so many days, and at most for so many; other numbers are unknown.
SHORTEST, LONGEST = 1, 3650


def is_known(days: int | None) -> bool:
    """Whether this is a number of days that a consent may last."""
    return days is not None and SHORTEST <= days <= LONGEST


def reckoned(start: datetime, days: int, *, now: datetime) -> datetime:
    """The expiry of a consent that began at ``start``; counted from ``now`` if that date has passed."""
    date = start + timedelta(days=days)
    return date if date > now else now + timedelta(days=days)
