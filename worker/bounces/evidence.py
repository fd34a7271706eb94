"""Whether a refusal speaks of the address: one pure function over the codes and the words of a report.

Who wrote what matters. ``Status`` is the *reporting* server's word; where it only relays an answer, it is often a guess:
Sendmail writes 5.1.1 for every plain 550. The *receiving* server's word is its answer (``Diagnostic-Code``, or the text).

| the answer has | Status says | the address is |
|---|---|---|
| words about a full mailbox, or x.2.2 | anything | full |
| words about sender, policy, spam, load, time | anything | not to blame |
| an enhanced code of a dead address | the same, or nothing | dead |
| an enhanced code of a dead address | something else | not to blame: the two contradict |
| another telling enhanced code | anything | not to blame |
| a reply code alone, words of a dead address | dead | dead |
| the same, and the refusal answered RCPT or speaks of the domain | nothing | dead |
| a reply code alone, no such words | anything | not to blame: Status is a guess |
| nothing | an enhanced code of a dead address | dead: the reporting server looked itself |

Whatever was refused after DATA was accepted for its recipient first, so it is never dead: many filters say "user unknown" then.
A code whose last number is 0 ("other") tells nothing, as does 5.2.1 (disabled, perhaps for a while).
"""

import re
from dataclasses import dataclass

from worker.bounces.report import BounceOutcome
from worker.channels.email.outcomes import BAD_ADDRESS_CODES

#: Characters of an answer that are looked at.
LIMIT = 4000

_CODE = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\d|\.\d)")
#: A reply code and the enhanced code behind it, wrapped or not: ``550 5.1.1``, ``550-5.1.1``, ``550-'5.1.1``, ``550 #5.1.0``.
_ANSWERED = re.compile(
    r"(?<![\d.])([245]\d\d)(?:[ -]|: ?)\s{0,8}(?:[45]\d\d )?['\"(\[#]{0,2}([245]\.\d{1,3}\.\d{1,3})(?!\d|\.\d)"
)
_REPLY = re.compile(r"(?<![\d.#/:=\[-])([45][0-5]\d)(?![\d.%])(?=[ :-]|$)")

#: Addresses, links and host names are cut out before words are looked for: ``spam-relay.example`` is no accusation.
_NAMES = re.compile(
    r"https?://\S{1,500}|[^\s<>\"'(),;:\[\]]{1,250}@[^\s<>\"'(),;:\]]{1,250}|\b[\w-]{1,63}(?:\.[\w-]{1,63}){1,10}\b"
)

_FULL = re.compile(
    r"\b(?:mail ?box|inbox|box|folder|account|disk|system|storage|drive|user)\b.{0,40}\bfull\b|\bfull (?:mail ?box|inbox)|quota|over.?quota|storage|insufficient (?:disk|system|space)|not enough space|mailbox (?:size|limit)|exceed",
    re.IGNORECASE,
)
#: Nothing in here is the fault of an address, whatever code stands beside it.
_NOT_THE_ADDRESS = re.compile(
    r"spam|junk|\bbulk\b|block|black.?list|deny.?list|\brbl\b|dnsbl|reputation|polic(?:y|ies)|preferences|dmarc|\bdkim\b|\bspf\b|\bptr\b"
    r"|reverse|\brdns\b|relay|authenti|sender|from address|mail from|originat|\brate\b|too (?:many|much|large|big|old)|throttl|limit"
    r"|virus|malware|content|attachment|phish|permission|permitted|not allowed|authori[sz]|forbidden|prohibit|restrict|banned"
    r"|temporar|try (?:again )?later|not found, try again|timed? ?out|timeout|expired|delayed|deferred|greylist|grey.?list|suspend|disabled|inactive|locked"
    r"|\bloop|hops|\btls\b|encrypt|certificate|unavailable at this time|configuration|config error|protocol error|connection (?:refused|reset|failed|dropped)|could not connect|unsubscri|language"
    r"|\bserver error|system error|local error|internal error|\bbusy\b|command (?:output|died)|could ?n.t (?:create|open|write)",
    re.IGNORECASE,
)  # fmt: skip
_WHO = r"(?:user|recipient|mailbox|account|addressee|alias|person|customer|local part|userid)"
#: Words that count only in an answer with a code: as words of the reporting server alone they are a headline ("User unknown").
_IN_AN_ANSWER = re.compile(
    rf"\b{_WHO}s? ?(?:\S{{1,64}} )?(?:is |are |was |has )?(?:unknown|not known|not found|non-?existent|invalid|not valid|not exist)\b"
    r"|\bnot (?:our|a) (?:user|customer)\b|\baddress .{0,40}(?:not found|unknown|does not exist)\b",
    re.IGNORECASE,
)
_DEAD_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "user_unknown",
        re.compile(
            rf"\b(?:unknown|invalid|no such|not a valid|no valid|non-?existent|nonexist\w*|illegal|bad|incorrect) (?:or (?:illegal|invalid|unknown) )?"
            rf"(?:(?:e-?mail|final|delivery|destination|local|recipient|user|smtp|virtual) ){{0,3}}{_WHO}s?\b"
            rf"|\b{_WHO}s? (?:\S{{1,64}} )?(?:does|do|did)(?: not|n.?t) exist\b"
            r"|\bno (?:mailbox|user|account|one|recipient|person) (?:here|found|with|by|at) ?(?:by )?(?:that|this|such)?"
            r"|\bunknown (?:in|to) |\brecip(?:ient)?notfound\b|\brecipient name is not recogni[sz]ed|\bnot (?:listed|found) in (?:domino|public|the) "
            r"|\b(?:user|recipient|account)\b.{0,40}\b(?:could ?n.t|could not|was ?n.t|was not|cannot) be found\b"
            r"|\b(?:email )?address .{0,30}(?:could ?n.t be found|was ?n.t found)"
            r"|\bnot a known user\b",
            re.IGNORECASE,
        ),
    ),
    (
        "no_such_domain",
        re.compile(
            r"\bhost or domain name not found\b.{0,120}\bhost not found(?!, try)|\bhost unknown\b|\bunknown (?:host|domain)\b|\bno such (?:domain|host)\b"
            r"|\bdomain (?:\S{1,64} )?(?:does not exist|not found|unknown)\b|\binvalid domain\b(?! name)|\bunrouteable (?:mail domain|address)\b"
            r"|\bcould ?n.t find any host\b|\billegal host/domain name\b|\bdns lookup failure: host .{0,40}not found|\bbad destination (?:host|system)\b",
            re.IGNORECASE,
        ),
    ),
    (
        "moved_away",
        re.compile(r"\b(?:mailbox|user|recipient|account) (?:has |is )?(?:moved|no longer (?:on|at|here|with|valid|exist\w*))|\bno forwarding address\b", re.IGNORECASE),
    ),
)  # fmt: skip
#: Microsoft's edge says this of a recipient that is not in the directory, and of nothing else (Directory-Based Edge Blocking).
_EDGE = re.compile(
    r"\b5\.4\.1 .{0,300}recipient address rejected: access denied.{0,200}\.protection\.outlook\.com", re.IGNORECASE
)

#: The refusal answered RCPT: it was the recipient that was refused, not what was in the mail.
_AT_RCPT = re.compile(
    r"in reply to rcpt|\b5\.1\.351 |after rcpt|\[rcpt_to\]|smtp:rcpt|does not like recipient|did not like our rcpt|rcpt to response|following rcpt"
    r"|>>> DATA <<< [45](?=(?:(?!>>>).){0,2000}?(?:<<< 503|need rcpt|no valid recipients))"
    r"|(?:>>>|sent <<<) rcpt to:\s{0,4}<[^>]{1,300}>\s{0,4}(?:<<<|received >>>) [45]|rejected recipient|error from remote (?:mail )?server after rcpt",
    re.IGNORECASE,
)
#: KDDI answers "550 : User unknown", without the address, to what a subscriber's filter refuses.
_DECOY = re.compile(r"\b550:? : user unknown", re.IGNORECASE)
#: Said in the text beside the fields, it contradicts a code of a dead address.
_OUT_OF_ROOM = re.compile(
    r"\bnot enough (?:disk )?space\b|\b(?:mailbox|inbox|account) (?:is |was )?(?:full|over (?:its )?quota)\b",
    re.IGNORECASE,
)
_SAYS_LITTLE = re.compile(r"[245]\.(?:[01235]\.0|2\.1|4\.[04]|1\.351)")
_AFTER_DATA = re.compile(
    r"\(in reply to (?:end of )?DATA command\)|after (?:end of data|sending the message|i sent the message|pipelined end of data|DATA)\b"
    r"|>>> DATA <<< [45](?!(?:(?!>>>).){0,2000}?(?:<<< 503|need rcpt|no valid recipients))|\bsmtp error from remote (?:mail server|mailer) after DATA|\[BODY\]"
    r"|\bresponse to (?:end of )?(?:DATA|message)\b|SMTP:DATA ",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """What the evidence comes to."""

    outcome: BounceOutcome
    code: str = ""
    evidence: str = ""


def assess(*, status: str = "", answer: str = "", action: str = "failed", context: str = "") -> Assessment:
    """What a report says of one recipient.

    ``status`` is the reporting server's enhanced code, ``answer`` the receiving server's answer, ``context`` what else the report
    says of the attempt (a transcript); each may be empty.
    """
    answer, context = answer[:LIMIT], " ".join(context[:LIMIT].split())
    claimed = _first_code(status)
    said = _codes_in(answer)
    code = next((each for each in said if not _little(each)), "") or (claimed if not _little(claimed) else "")
    code = code or (said[0] if said else claimed)
    if action in {"delivered", "relayed", "expanded"} or (code or claimed).startswith("2"):
        return Assessment(outcome=BounceOutcome.DELIVERED, code=code)
    words = _NAMES.sub(" ", answer)
    if action == "delayed" or _passes(claimed, said, answer):
        return Assessment(
            outcome=BounceOutcome.TRANSIENT,
            code=next((each for each in (claimed, *said) if each.startswith("4")), code),
        )
    if any(each[2:] == "2.2" for each in (*said, code)) or _FULL.search(words):
        return Assessment(outcome=BounceOutcome.MAILBOX_FULL, code=code)
    why = _why_dead(claimed, said, answer, words, context)
    if why:
        return Assessment(outcome=BounceOutcome.BAD_ADDRESS, code=code, evidence=why)
    return Assessment(
        outcome=BounceOutcome.REFUSED if code or _REPLY.search(answer) else BounceOutcome.TRANSIENT, code=code
    )


def words_in(text: str) -> bool:
    """Whether a text speaks of a refusal at all, in a code or in words."""
    text = text[:LIMIT]
    return bool(_CODE.search(text) or _REPLY.search(text) or _dead_words(_NAMES.sub(" ", text)) or _FULL.search(text))


def _why_dead(claimed: str, said: list[str], answer: str, words: str, context: str) -> str:
    """What shows that there is no such address; empty if nothing does, or if something speaks against it."""
    if _AFTER_DATA.search(answer) or _AFTER_DATA.search(context):
        return ""
    if _EDGE.search(answer):
        return "5.4.1, recipient_not_in_directory"
    telling = [each for each in said if not _little(each)]
    others = [each for each in (*telling, claimed) if not _little(each) and each not in BAD_ADDRESS_CODES]
    if others or any(map(bool, (_DECOY.search(answer), _OUT_OF_ROOM.search(context), _NOT_THE_ADDRESS.search(words)))):
        return ""
    answered = bool(said or _REPLY.search(answer))
    believed = claimed in BAD_ADDRESS_CODES
    told = _dead_words(words) or ("user_unknown" if (answered or believed) and _IN_AN_ANSWER.search(words) else "")
    if telling:
        return ", ".join(filter(None, (telling[0], told)))
    if believed:
        return ", ".join(filter(None, (claimed, told))) if told or not answered else ""
    tells_nothing = any(each.endswith(".0.0") for each in said)  # it has codes, and chose the one that says nothing
    at_rcpt = _AT_RCPT.search(answer) or _AT_RCPT.search(context)
    return told if not tells_nothing and (at_rcpt or not answered or told == "no_such_domain") else ""


def _codes_in(answer: str) -> list[str]:
    """The enhanced codes of the receiving server; those right behind a reply code, if there are such."""
    behind = [found[2] for found in _ANSWERED.finditer(answer)]
    return behind or [found[0] for found in _CODE.finditer(answer)]


def _passes(claimed: str, said: list[str], answer: str) -> bool:
    """Whether any server that was heard calls it a failure that passes."""
    if said or claimed:
        return any(each.startswith("4") for each in (*said, claimed))
    reply = _REPLY.search(answer)
    return reply is not None and reply[1].startswith("4")


def _dead_words(words: str) -> str:
    return next((name for name, pattern in _DEAD_WORDS if pattern.search(words)), "")


def _little(code: str) -> bool:
    return not code or bool(_SAYS_LITTLE.fullmatch(code))


def _first_code(text: str) -> str:
    found = _CODE.search(text[:1000])
    return found[0] if found else ""
