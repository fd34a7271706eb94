"""Does a refusal mean that the address does not exist? One pure function over the codes and words of a report.

A report has two sources. The *receiving* server's answer is in ``Diagnostic-Code`` or in the text. ``Status`` is from the
*reporting* server, which often guesses it: Sendmail writes 5.1.1 for every plain 550.

"Dead" means that the address does not exist. "Specific" is an enhanced code that names a cause: not one that ends with 0 ("other"),
and not 5.2.1 (disabled, perhaps for a while).

| the receiving server's answer | Status | the address is |
|---|---|---|
| words about a full mailbox, or x.2.2 | any | full |
| words about sender, policy, spam, load, time | any | not the cause |
| an enhanced code of a dead address | the same, or none | dead |
| an enhanced code of a dead address | another specific code | not the cause: the codes contradict each other |
| another specific enhanced code | any | not the cause |
| only a reply code, and words of a dead address | a code of a dead address | dead |
| the same, in reply to RCPT or about the domain | none | dead |
| only a reply code, and no such words | any | not the cause: Status is a guess |
| none | a code of a dead address | dead: the reporting server found out by itself |

A refusal after DATA never means dead, because the server accepted the recipient before. Many filters answer "user unknown" there.
"""

import re
from dataclasses import dataclass

from worker.bounces.report import BounceOutcome
from worker.channels.email.outcomes import BAD_ADDRESS_CODES

#: Characters of an answer that are read.
LIMIT = 4000

_CODE = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\d|\.\d)")
#: A reply code followed by an enhanced code: ``550 5.1.1``, ``550-5.1.1``, ``550-'5.1.1``, ``550 #5.1.0``.
_ANSWERED = re.compile(
    r"(?<![\d.])([245]\d\d)(?:[ -]|: ?)\s{0,8}(?:[45]\d\d )?['\"(\[#]{0,2}([245]\.\d{1,3}\.\d{1,3})(?!\d|\.\d)"
)
_REPLY = re.compile(r"(?<![\d.#/:=\[-])([45][0-5]\d)(?![\d.%])(?=[ :-]|$)")

#: Addresses, links and host names. They are removed before the search for words: ``spam-relay.example`` does not mean spam.
_NAMES = re.compile(
    r"https?://\S{1,500}|[^\s<>\"'(),;:\[\]]{1,250}@[^\s<>\"'(),;:\]]{1,250}|\b[\w-]{1,63}(?:\.[\w-]{1,63}){1,10}\b"
)

_FULL = re.compile(
    r"\b(?:mail ?box|inbox|box|folder|account|disk|system|storage|drive|user)\b.{0,40}\bfull\b|\bfull (?:mail ?box|inbox)|quota|over.?quota|storage|insufficient (?:disk|system|space)|not enough space|mailbox (?:size|limit)|exceed",
    re.IGNORECASE,
)
#: Words of causes other than the address. They override any code.
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
#: Words that count only in an answer with a code. Without a code they are the reporting server's headline ("User unknown").
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
#: Microsoft answers this only for a recipient that is not in the directory (Directory-Based Edge Blocking).
_EDGE = re.compile(
    r"\b5\.4\.1 .{0,300}recipient address rejected: access denied.{0,200}\.protection\.outlook\.com", re.IGNORECASE
)

#: The refusal was the reply to RCPT. So the recipient was refused, not the content.
_AT_RCPT = re.compile(
    r"in reply to rcpt|\b5\.1\.351 |after rcpt|\[rcpt_to\]|smtp:rcpt|does not like recipient|did not like our rcpt|rcpt to response|following rcpt"
    r"|>>> DATA <<< [45](?=(?:(?!>>>).){0,2000}?(?:<<< 503|need rcpt|no valid recipients))"
    r"|(?:>>>|sent <<<) rcpt to:\s{0,4}<[^>]{1,300}>\s{0,4}(?:<<<|received >>>) [45]|rejected recipient|error from remote (?:mail )?server after rcpt",
    re.IGNORECASE,
)
#: KDDI answers "550 : User unknown", without the address, if a subscriber's filter refuses the mail.
_DECOY = re.compile(r"\b550:? : user unknown", re.IGNORECASE)
#: These words in the report's text contradict a code of a dead address.
_OUT_OF_ROOM = re.compile(
    r"\bnot enough (?:disk )?space\b|\b(?:mailbox|inbox|account) (?:is |was )?(?:full|over (?:its )?quota)\b",
    re.IGNORECASE,
)
#: Enhanced codes that are not specific.
_UNSPECIFIC = re.compile(r"[245]\.(?:[01235]\.0|2\.1|4\.[04]|1\.351)")
_AFTER_DATA = re.compile(
    r"\(in reply to (?:end of )?DATA command\)|after (?:end of data|sending the message|i sent the message|pipelined end of data|DATA)\b"
    r"|>>> DATA <<< [45](?!(?:(?!>>>).){0,2000}?(?:<<< 503|need rcpt|no valid recipients))|\bsmtp error from remote (?:mail server|mailer) after DATA|\[BODY\]"
    r"|\bresponse to (?:end of )?(?:DATA|message)\b|SMTP:DATA ",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified:
    """The outcome for one recipient, and the evidence for it."""

    outcome: BounceOutcome
    code: str = ""
    evidence: str = ""


def classify(*, status: str = "", answer: str = "", action: str = "failed", context: str = "") -> Classified:
    """The outcome that a report gives for one recipient.

    ``status`` is the reporting server's enhanced code, ``answer`` the receiving server's answer, ``context`` the rest of the report,
    such as a transcript. Each may be empty.
    """
    answer, context = answer[:LIMIT], " ".join(context[:LIMIT].split())
    claimed = _first_code(status)
    answered_codes = _codes_in(answer)
    code = next((each for each in answered_codes if not _is_unspecific(each)), "") or (
        claimed if not _is_unspecific(claimed) else ""
    )
    code = code or (answered_codes[0] if answered_codes else claimed)
    if action in {"delivered", "relayed", "expanded"} or (code or claimed).startswith("2"):
        return Classified(outcome=BounceOutcome.DELIVERED, code=code)
    words = _NAMES.sub(" ", answer)
    if action == "delayed" or _is_temporary(claimed, answered_codes, answer):
        return Classified(
            outcome=BounceOutcome.TRANSIENT,
            code=next((each for each in (claimed, *answered_codes) if each.startswith("4")), code),
        )
    if any(each[2:] == "2.2" for each in (*answered_codes, code)) or _FULL.search(words):
        return Classified(outcome=BounceOutcome.MAILBOX_FULL, code=code)
    evidence = _dead_evidence(claimed, answered_codes, answer, words, context)
    if evidence:
        return Classified(outcome=BounceOutcome.BAD_ADDRESS, code=code, evidence=evidence)
    return Classified(
        outcome=BounceOutcome.REFUSED if code or _REPLY.search(answer) else BounceOutcome.TRANSIENT, code=code
    )


def words_in(text: str) -> bool:
    """Whether a text contains a code or words of a refusal."""
    text = text[:LIMIT]
    return bool(_CODE.search(text) or _REPLY.search(text) or _dead_words(_NAMES.sub(" ", text)) or _FULL.search(text))


def _dead_evidence(claimed: str, answered_codes: list[str], answer: str, words: str, context: str) -> str:
    """The evidence that the address is dead; empty if there is none, or if other evidence contradicts it."""
    if _AFTER_DATA.search(answer) or _AFTER_DATA.search(context):
        return ""
    if _EDGE.search(answer):
        return "5.4.1, recipient_not_in_directory"
    specific = [each for each in answered_codes if not _is_unspecific(each)]
    others = [each for each in (*specific, claimed) if not _is_unspecific(each) and each not in BAD_ADDRESS_CODES]
    if others or any(map(bool, (_DECOY.search(answer), _OUT_OF_ROOM.search(context), _NOT_THE_ADDRESS.search(words)))):
        return ""
    has_code = bool(answered_codes or _REPLY.search(answer))
    claims_dead = claimed in BAD_ADDRESS_CODES
    word = _dead_words(words) or ("user_unknown" if (has_code or claims_dead) and _IN_AN_ANSWER.search(words) else "")
    if specific:
        return ", ".join(filter(None, (specific[0], word)))
    if claims_dead:
        return ", ".join(filter(None, (claimed, word))) if word or not has_code else ""
    # A server that sends enhanced codes and chooses x.0.0 ("undefined") does not mean a dead address.
    undefined = any(each.endswith(".0.0") for each in answered_codes)
    at_rcpt = _AT_RCPT.search(answer) or _AT_RCPT.search(context)
    return word if not undefined and (at_rcpt or not has_code or word == "no_such_domain") else ""


def _codes_in(answer: str) -> list[str]:
    """The enhanced codes in the answer: those that follow a reply code, else all."""
    after_reply_code = [match[2] for match in _ANSWERED.finditer(answer)]
    return after_reply_code or [match[0] for match in _CODE.finditer(answer)]


def _is_temporary(claimed: str, answered_codes: list[str], answer: str) -> bool:
    """Whether one of the two servers gives a code of a temporary failure (4xx, 4.x.x)."""
    if answered_codes or claimed:
        return any(each.startswith("4") for each in (*answered_codes, claimed))
    reply = _REPLY.search(answer)
    return reply is not None and reply[1].startswith("4")


def _dead_words(words: str) -> str:
    return next((name for name, pattern in _DEAD_WORDS if pattern.search(words)), "")


def _is_unspecific(code: str) -> bool:
    return not code or bool(_UNSPECIFIC.fullmatch(code))


def _first_code(text: str) -> str:
    match = _CODE.search(text[:1000])
    return match[0] if match else ""
