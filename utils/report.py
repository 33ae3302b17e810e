"""What people and programs read: JSON lines or a report on standard output, everything else on standard error."""

import json
import os
import sys

from utils.artifacts import ArtifactError, lead_nowhere

LONG_REPORTS = 5  # so many files are reported in full, more of them in one line each
BAR, TIMELINE = 20, 60  # characters
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def shown(text):
    """A file name or sentence as one line of text that cannot control the terminal."""
    from utils.audio import printable

    return printable(text)


def count(number, noun):
    return f"{number} {noun}" + ("" if number == 1 else "s")


def drawing_characters(stream):
    """(full, empty, line) characters that the stream can show."""
    try:
        "█·─".encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#", ".", "-"
    return "█", "·", "─"


def bar(probability, full, empty, width=BAR):
    filled = round(probability * width)
    return full * filled + empty * (width - filled)


def timeline(events, duration_s, full, line, width=TIMELINE):
    """Events as blocks on a line of `width` characters that stands for the whole recording."""
    cells = [line] * width
    for event in events:
        first = min(width - 1, int(event["start_s"] / max(duration_s, 1e-9) * width))
        last = min(width - 1, max(first, round(event["end_s"] / max(duration_s, 1e-9) * width) - 1))
        cells[first : last + 1] = full * (last - first + 1)
    return "".join(cells)


def clock(seconds):
    """3.25 -> '3.25 s', 4000.5 -> '1:06:40.5'."""
    if round(seconds, 2) < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


class Printer:
    """What a run says: JSON lines or a report on standard output, everything else on standard error.

    Where a stream's events have another use, a table, clips or a command, the loss of standard output ends nothing: it is
    said once, and self.lost is true.
    """

    def __init__(self, args, ensemble, n_inputs):
        self.args, self.ensemble, self.long = args, ensemble, n_inputs <= LONG_REPORTS
        of_stream = args.live is not None or args.file == ["-"]
        self.goes_on = of_stream and bool(args.csv or args.clips or args.on_event or args.on_start)
        self.lost = False
        self.full, self.empty, self.line = drawing_characters(sys.stdout)
        if hasattr(sys.stdout, "reconfigure"):  # a name that the terminal cannot show must not end the run
            sys.stdout.reconfigure(errors="backslashreplace")
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def paint(self, text, code):
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def write(self, text, stream):
        """Print at once; a bar on the terminal moves out of the way."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=stream)
            stream.flush()
        else:
            print(text, file=stream, flush=True)

    def out(self, text):
        """Print to standard output. Raises ArtifactError where it cannot be written, BrokenPipeError where nobody reads it."""
        if self.lost:
            return
        try:
            self.write(text, sys.stdout)
        except OSError as error:
            if not self.goes_on and isinstance(error, BrokenPipeError):
                raise
            lead_nowhere(sys.stdout)
            if not self.goes_on:
                raise ArtifactError(f"standard output cannot be written ({error.strerror})") from None
            self.lost = True
            self.failures([f"standard output cannot be written any more ({error.strerror}); listening goes on without it"])

    def say(self, text):
        try:
            self.write(shown(text), sys.stderr)
        except OSError:
            lead_nowhere(sys.stderr)  # nobody is left to be told

    def failures(self, sentences):
        for sentence in sentences:
            self.say(f"error: {sentence}")

    def begin(self, note):
        missing = self.missing_models()
        if self.args.json or not sys.stdout.isatty():
            for line in missing:
                self.say(line)
        if not self.args.json:
            for line in [*([note] if note else []), *missing]:
                self.out(shown(line))

    def threads(self, n_threads, n_jobs):
        """Tell a person at a terminal how much of the machine is used."""
        if not self.args.json and sys.stderr.isatty():
            where = "the GPU" if getattr(self.ensemble, "device", "cpu") == "cuda" else "the CPU"
            runtime = getattr(self.ensemble, "runtime", "")
            networks = f", networks in {runtime} on {where}" if runtime else ""
            processes = f" in each of {n_jobs} processes" if n_jobs > 1 else ""
            self.say(f"{count(n_threads, 'thread')}{processes}{networks} (--threads, --jobs, --device)")

    def missing_models(self):
        """Lines that say plainly when fewer models vote than should, or without what is beside them."""
        missing, names = self.ensemble.missing, self.args.names
        lines = []
        if missing:
            voted, of = NUMBERS[len(names) - len(missing)], NUMBERS[len(names)]
            lines = [f"{voted.capitalize()} of {of} models vote:"]
            lines += [f"  {name} does not: {why}" for name, why in missing.items()]
        if getattr(self.ensemble, "noise", "of a stand-in") is None:
            lines.append(f"noise.json is missing in {self.args.models}, so short clips are judged as if there were no noise in "
                         "them: run python train_ml.py")
        return lines

    def event(self, file, event):
        """An event of a stream that has just ended."""
        if self.args.json:
            self.out(json.dumps({"file": file, **event}))
        else:
            self.out(f"event {self.event_line(event)}")

    def event_line(self, event):
        """'7 s to 9 s   probability 0.41 ...', and 'stands out of the noise' where not even a second look has a majority."""
        line = f"{clock(event['start_s'])} to {clock(event['end_s'])}   {self.scores(event)}"
        twice, n_models = 2 * event["votes"], len(self.ensemble.names)
        voted = twice > n_models or (twice == n_models and event["probability"] >= 0.5)
        return line if voted or not self.args.settings.by_vote else f"{line}   stands out of the noise"

    def scores(self, scored):
        return f"probability {scored['probability']:.2f}   {scored['votes']} of {count(len(self.ensemble.names), 'vote')}"

    def record(self, record):
        if self.args.json:
            self.out(json.dumps(record))
        elif "error" in record:
            return  # the sentence is on standard error
        elif self.long:
            self.out("\n".join(self.report(record)))
        else:
            self.out(self.one_line(record))

    def verdict(self, record):
        return self.paint("SCREAM", "1;31") if record["verdict"] == "scream" else self.paint("no scream", "32")

    def report(self, record):
        """A recording in full, as lines."""
        duration_s, events = record["duration_s"], record["events"]
        name = "standard input" if record["file"] == "-" else shown(record["file"])
        yield ""
        yield self.paint(name, "1") + f"   {clock(duration_s)}"
        yield f"  {self.verdict(record)}   {self.scores(record)}"
        yield ""
        for model, vote in record["models"].items():
            says = vote["verdict"] == "scream"
            drawn = self.paint(bar(vote["probability"], self.full, self.empty), "31" if says else "32")
            yield f"  {model:20} {drawn} {vote['probability']:.2f}  {'scream' if says else '-'}"
        yield ""
        line = timeline(events, duration_s, self.full, self.line)
        yield "  0 s " + line.replace(self.full, self.paint(self.full, "31")) + f" {clock(duration_s)}"
        for event in events:
            yield f"  {self.event_line(event)}"
        if not events:
            yield "  no event"

    def one_line(self, record):
        label = "SCREAM   " if record["verdict"] == "scream" else "no scream"
        times = ", ".join(f"{clock(e['start_s'])} to {clock(e['end_s'])}" for e in record["events"][:3])
        more = f" and {len(record['events']) - 3} more" if len(record["events"]) > 3 else ""
        painted = self.paint(label, "1;31" if record["verdict"] == "scream" else "32")
        return (f"{painted} {record['probability']:.2f} {record['votes']}/{len(self.ensemble.names)}  {shown(record['file'])}"
                + (f"  {times}{more}" if times else ""))

    def end(self, records, n_failed, load_s, scan_s, many):
        """The last line: what was done, and how long it took."""
        seconds = sum(record.get("duration_s", 0) for record in records)
        n_events = sum(len(record.get("events", ())) for record in records)
        if not self.args.json and self.long and len(records) > n_failed:
            self.out(f"\n{count(len(records) - n_failed, 'recording')}, {clock(seconds)}: analysed in {scan_s:.2f} s"
                     f" (models loaded in {load_s:.2f} s)")
        if many:
            self.say(f"{count(len(records), 'file')}, {seconds / 3600:.2f} hours, {count(n_events, 'event')}, {n_failed} failed")
