"""The command line that main.py, inference_svm.py and inference_cnn.py share: options, inputs, the run, the printing.

Imports of models and of optional outputs happen where they are used, so that --help and a wrong option answer at once.
"""

import argparse
import contextlib
import functools
import json
import os
import sys
import time

EXAMPLES = "data/examples"  # beside main.py
LONG_REPORTS = 5  # so many files are reported in full, more of them in one line each
BAR, TIMELINE = 20, 60  # characters
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MARK = "\0"  # stands before a file name with a leading dash while argparse works; no real argument can hold it


def shown(text):
    """A file name or sentence as one line of text that cannot control the terminal."""
    from utils.audio import printable

    return printable(text)


# --- options -------------------------------------------------------------------------------------------------------

def build_parser(description, names):
    """Options of a detector with the models `names`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument_group("input").add_argument
    add("--file", nargs="+", action="extend", metavar="PATH", type=lambda path: path.removeprefix(MARK),
        help="files, folders (searched recursively), or - for audio on standard input; without it, the bundled clips")
    add("--raw-rate", type=int, metavar="HZ", help="standard input is raw 16-bit little-endian samples of this rate")
    add("--raw-channels", type=int, metavar="N", help="interleaved channels of raw samples (default 1)")
    add("--live", nargs="?", const="", metavar="DEVICE",
        help="listen to a microphone until Ctrl-C: its number or part of its name, or the default one (needs sounddevice)")

    add = parser.add_argument_group("what counts as an event").add_argument
    add("--threshold", type=float, metavar="P", help="probability from which a window fires (default: the vote decides)")
    add("--min-votes", type=int, metavar="N", help="models that must say scream (default: the vote decides)")
    add("--exit-threshold", type=float, metavar="P",
        help="an open event goes on down to this probability (default 0.7 times the threshold)")
    add("--min-duration", type=float, default=0.0, metavar="S", help="drop events shorter than this (default %(default)s)")
    add("--max-gap", type=float, default=1.0, metavar="S", help="pauses up to this do not end an event (default %(default)s)")
    add("--padding", type=float, default=0.0, metavar="S", help="lengthen events on both sides (default %(default)s)")
    add("--hop", type=float, metavar="S", help="seconds between windows, 0.1 to 2.9 (default 1.47, half a window)")

    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON object per file and line, nothing else on standard output")
    add("--csv", metavar="FILE", help="table with a row per event and the settings used")
    add("--audacity", action="store_true", help="write an Audacity label track beside each file")
    add("--raven", action="store_true", help="write a Raven selection table beside each file")
    add("--clips", metavar="DIR", help="cut each event out as a WAV file into DIR")
    add("--plot", metavar="DIR", help="a picture per file: spectrogram, probabilities over time, events")
    add("--explain", metavar="DIR", help="a picture per file: what spoke for a scream in its strongest window")
    add("--on-event", metavar="COMMAND",
        help="with --live or --file -: run COMMAND at each event; {start} {end} {probability} are filled in, no shell")

    add = parser.add_argument_group("how to run").add_argument
    add("--jobs", type=int, default=1, metavar="N", help="files analysed at the same time (default %(default)s)")
    add("--resume", action="store_true", help="keep a journal of finished files and go on where it stops: beside the "
        "--csv file, else scream-scan.journal here")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the networks run (default %(default)s)")
    add("--threads", type=int, metavar="N", help="threads of the networks (default 2; 1 with --jobs)")
    add("--models", default=os.path.relpath(os.path.join(REPOSITORY, "models")), metavar="DIR",
        help="folder of the trained models (default: models, beside the scripts)")
    add("--trust-models", action="store_true", help="also load models that are not on the list of released or own ones; "
        "a pickle from somebody else can run anything")
    parser.set_defaults(names=tuple(names))
    return parser


def protect_dashes(parser, argv):
    """Mark the values of --file that look like options but are files, and all words after --."""
    protected, in_files = [], False
    for index, word in enumerate(argv):
        if word == "--" and in_files:
            return protected + [MARK + path for path in argv[index + 1 :]]
        is_option = word.split("=")[0] in parser._option_string_actions
        if is_option:
            in_files = word == "--file"
        elif in_files and len(word) > 1 and word.startswith("-") and os.path.lexists(word):
            word = MARK + word
        protected.append(word)
    return protected


def parse_arguments(parser, argv=None):
    """Parse and check; a bad option prints one sentence and exits with 2. Adds args.settings (EventSettings)."""
    from utils.events import EventSettings

    args = parser.parse_args(protect_dashes(parser, sys.argv[1:] if argv is None else list(argv)))
    if args.live is not None and args.file:
        parser.error("--live listens to the microphone; leave --file out")
    if args.file and any(not path for path in args.file):
        parser.error("--file needs a name, not an empty word")
    if args.raw_channels is not None and args.raw_rate is None:
        parser.error("--raw-channels needs --raw-rate")
    if args.raw_rate is not None and "-" not in (args.file or ()):
        parser.error("--raw-rate is about standard input; add --file -")
    if args.on_event and args.live is None and args.file != ["-"]:
        parser.error("--on-event needs --live or --file -")
    if args.on_event is not None:
        from utils.live import EventCommand

        try:
            EventCommand(args.on_event)
        except ValueError as error:
            parser.error(f"--on-event: {error}")
    if (args.live is not None or "-" in (args.file or ())) and (args.audacity or args.raven or args.clips or args.explain):
        parser.error("--audacity, --raven, --clips and --explain need files; save the sound to a file first")
    for name in ("raw_rate", "raw_channels", "jobs", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.min_votes is not None and not 0 <= args.min_votes <= len(args.names):
        parser.error(f"--min-votes must lie between 0 and {len(args.names)}")
    if args.hop is not None and not 0.1 <= args.hop <= 2.9:
        parser.error("--hop must lie between 0.1 and 2.9 seconds")
    if args.csv and not os.path.isdir(os.path.dirname(os.path.abspath(args.csv))):
        parser.error(f"--csv {args.csv}: no such folder")
    try:
        args.settings = EventSettings(args.threshold, args.min_votes, args.exit_threshold, args.min_duration, args.max_gap,
                                      args.padding)
    except ValueError as error:
        parser.error(str(error))
    return args


def hop_samples(args):
    from utils.audio import SAMPLE_RATE, WINDOW_HOP

    return WINDOW_HOP if args.hop is None else round(args.hop * SAMPLE_RATE)


def result_settings(args, ensemble):
    """Everything that changes results, as the CSV and the journal keep it."""
    return {"models": list(ensemble.names), **vars(args.settings), "hop_s": round(hop_samples(args) / 22_050, 4)}


# --- input ---------------------------------------------------------------------------------------------------------

def find_inputs(paths):
    """Files to analyse, in a stable order: [(path, error sentence or None)]. Folders give what lies below them, sorted."""
    from utils.dataset import AUDIO_EXTENSIONS, audio_files

    inputs = []
    for path in paths:
        if path == "-" or not os.path.isdir(path):
            inputs.append((path, None))
        elif not os.access(path, os.R_OK | os.X_OK):
            inputs.append((path, f"{shown(path)}: no permission to read this folder"))
        else:
            below = audio_files(path)
            inputs += [(found, None) for found in below]
            if not below:
                inputs.append((path, f"{shown(path)}: no audio files in this folder ({', '.join(AUDIO_EXTENSIONS)})"))
    return inputs


def open_blocks(path, args):
    if path == "-":
        from utils.pipe import read_stream

        stream = sys.stdin.buffer  # unbuffered: a thread that waits in a buffered read would break Ctrl-C
        return read_stream(getattr(stream, "raw", stream), args.raw_rate, args.raw_channels or 1)
    from utils.audio import read_blocks

    return read_blocks(path)


def watch_progress(blocks, path):
    """Hand blocks on; on a terminal, show a bar in seconds of sound once it takes longer than two seconds."""
    from tqdm import tqdm

    from utils.audio import SAMPLE_RATE

    total = None
    if sys.stderr.isatty() and path != "-":
        import soundfile

        with contextlib.suppress(soundfile.LibsndfileError, OSError):
            total = soundfile.info(path).duration
    with tqdm(total=total, unit="s", unit_scale=True, delay=2, disable=None, desc="sound", leave=False) as bar:
        for block in blocks:
            bar.update(len(block) / SAMPLE_RATE)
            yield block


# --- the run -------------------------------------------------------------------------------------------------------

def load(args):
    from utils.ensemble import load_ensemble

    threads = args.threads or (1 if args.jobs > 1 else min(2, os.cpu_count() or 1))
    return load_ensemble(args.models, args.names, args.device, threads, args.trust_models)


def unexpected(path, error):
    return f"{shown(path)}: unexpected {type(error).__name__} ({error})"


def analyse(path, args, ensemble, on_event=None, poll=None, progress=False):
    """Analyse one input and write the outputs that belong to it. Returns (record, list of sentences about failures).

    A recording that cannot be analysed gives the record {"file": ..., "error": ...}; nothing is raised for it.
    """
    from utils.artifacts import ArtifactError
    from utils.audio import AudioError
    from utils.scan import BATCH, scan

    blocks, hop, must_wait = open_blocks(path, args), hop_samples(args), None
    if path == "-":
        from utils.pipe import ReadAhead

        blocks = arriving = ReadAhead(blocks)

        def must_wait():
            return arriving.n_waiting < hop

    if progress:
        blocks = watch_progress(blocks, path)
    picture = Picture(args, ensemble) if args.plot else None

    def on_window(window):
        if picture:
            picture.windows.append(window)
        if poll:
            poll()

    try:
        record = scan(picture.watch(blocks) if picture else blocks, ensemble, args.settings, hop, BATCH, path,
                      on_event, on_window, must_wait)
    except AudioError as error:
        return {"file": path, "error": str(error)}, [str(error)]
    except (BrokenPipeError, ArtifactError):  # not about this recording
        raise
    except Exception as error:  # a night's run must not die of one file; the sentence says it is not the user's fault
        return {"file": path, "error": unexpected(path, error)}, [unexpected(path, error)]
    failures = []
    for write in output_writers(args, record, picture, ensemble):
        try:
            write()
        except (AudioError, ArtifactError) as error:
            failures.append(str(error))
        except Exception as error:  # the record is there; the other outputs and files shall be, too
            failures.append(unexpected(path, error))
    return record, failures


class Picture:
    """What --plot needs of a recording, gathered while it is scanned."""

    def __init__(self, args, ensemble):
        from utils.plots import SpectrogramOverview

        self.folder, self.threshold, self.names = args.plot, args.threshold, ensemble.names
        self.windows, self.overview = [], SpectrogramOverview()

    def watch(self, blocks):
        return self.overview.watch(blocks)

    def write(self, record):
        from utils.plots import plot_path, plot_recording

        path = plot_path(self.folder, record["file"])
        plot_recording(path, self.overview, self.windows, self.names, record, self.threshold)


def output_writers(args, record, picture, ensemble):
    """Functions that write the outputs asked for beside or about one recording."""
    from utils import event_files

    if args.audacity:
        yield lambda: event_files.write_audacity(record)
    if args.raven:
        yield lambda: event_files.write_raven(record)
    if args.clips:
        yield lambda: event_files.write_clips(record, args.clips)
    if picture:
        yield lambda: picture.write(record)
    if args.explain:
        from utils.explain import explain_recording

        yield lambda: explain_recording(record, ensemble, args.explain, hop_samples(args))


@functools.cache
def worker_ensemble(**options):
    """The models of a worker process: loaded once for all its files."""
    return load(argparse.Namespace(**options))


def analyse_in_worker(path, args):
    options = {name: getattr(args, name) for name in ("models", "names", "device", "threads", "trust_models", "jobs")}
    return analyse(path, args, worker_ensemble(**options))


def analyse_all(paths, args, ensemble):
    """Yield (record, failures) for each path, in order; with --jobs several processes work at the same time."""
    if args.jobs == 1 or len(paths) < 2:
        for path in paths:
            yield analyse(path, args, ensemble)
        return
    from joblib import Parallel, delayed

    workers = Parallel(min(args.jobs, len(paths)), return_as="generator")
    yield from workers(delayed(analyse_in_worker)(path, args) for path in paths)


def open_journal(args, ensemble, n_inputs):
    """The journal of a run over many files with --resume or --csv, else None."""
    if not args.resume and not (args.csv and n_inputs > 1):
        return None
    from utils.artifacts import sha256_of
    from utils.ensemble import MODEL_FILES
    from utils.journal import Journal

    files = {name: os.path.join(args.models, MODEL_FILES[name]) for name in ensemble.names}
    settings = result_settings(args, ensemble) | {
        "model_hashes": {name: sha256_of(path) for name, path in files.items() if os.path.isfile(path)},
        "outputs": [name for name in ("audacity", "raven", "clips", "plot", "explain") if getattr(args, name)],
    }
    return Journal(f"{args.csv}.journal" if args.csv else "scream-scan.journal", settings, resume=args.resume)


def analyse_or_recall(inputs, args, ensemble, journal):
    """Yield (record, failures) for each input, in order: from the journal, from its known error, or by analysing it."""
    known = {}
    for path, error in inputs:
        recalled = journal.find(path) if journal and path != "-" and not error else None
        if error:
            known[path] = {"file": path, "error": error}, [error]
        elif recalled:
            known[path] = recalled, [recalled["error"]] if "error" in recalled else []
    fresh = analyse_all([path for path, _ in inputs if path not in known], args, ensemble)
    for path, _ in inputs:
        if path in known:
            yield known[path]
            continue
        record, failures = next(fresh)
        if journal and path != "-" and (not failures or "error" in record):
            journal.add(path, record)
        yield record, failures


def detect(args, ensemble=None, note=None):
    """Analyse what args.file names, print and write everything asked for. Returns the exit status.

    ensemble: loaded models, or None to load them. note: a line to print above the results.
    """
    began = time.perf_counter()
    inputs = find_inputs(args.file)
    ensemble = ensemble or load(args)
    printer = Printer(args, ensemble, len(inputs))
    printer.begin(note)
    loaded = time.perf_counter()
    if args.file == ["-"]:
        records, n_failed = detect_stream(args, ensemble, printer)
    else:
        records, n_failed = detect_files(inputs, args, ensemble, printer)
    many = len(inputs) > 1 or args.file != [inputs[0][0]]
    printer.end(records, n_failed, loaded - began, time.perf_counter() - loaded, many=many and not note)
    return 1 if n_failed else 0


def make_folder(folder):
    from utils.artifacts import ArtifactError

    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder}: the folder cannot be made ({error.strerror})") from None


def detect_files(inputs, args, ensemble, printer):
    """Files one after another, or several at a time: (records with what the summary needs, number of failed files)."""
    from tqdm import tqdm

    records, n_failed = [], 0
    journal = open_journal(args, ensemble, len(inputs))
    with journal or contextlib.nullcontext():
        if len(inputs) == 1 and not inputs[0][1] and not journal:
            results = iter([analyse(inputs[0][0], args, ensemble, progress=True)])
        else:
            results = analyse_or_recall(inputs, args, ensemble, journal)
        for record, failures in tqdm(results, total=len(inputs), unit="file", delay=1, leave=False,
                                     disable=None if len(inputs) > 1 else True):
            printer.failures(failures)
            printer.record(record)
            n_failed += bool(failures)
            records.append({key: record[key] for key in ("file", "duration_s", "events") if key in record})
        if args.csv:
            from utils.event_files import write_csv

            write_csv(args.csv, records, result_settings(args, ensemble))
    if journal and not args.resume:
        os.remove(journal.path)  # the run is complete; with --resume it stays, for files that are added later
    return records, n_failed


@contextlib.contextmanager
def event_outputs(args, ensemble, printer, file):
    """What happens at each event of a stream: (on_event, the command of --on-event or None)."""
    with contextlib.ExitStack() as stack:
        table = command = None
        if args.csv:
            from utils.event_files import EventTable

            table = stack.enter_context(EventTable(args.csv, result_settings(args, ensemble)))
        if args.on_event:
            from utils.live import EventCommand

            command = EventCommand(args.on_event)

        def on_event(event):
            printer.event(file, event)
            if table:
                table.write(file, [event])

        yield on_event, command


def detect_stream(args, ensemble, printer):
    """Standard input: events are printed, written and acted on as they end. Returns ([record], number of failures)."""
    with event_outputs(args, ensemble, printer, "-") as (on_event, command):
        def on_event_and_command(event):
            on_event(event)
            if command:
                command(event)

        record, failures = analyse("-", args, ensemble, on_event_and_command, command and command.poll, progress=not args.json)
        if command:
            command.finish()
    printer.failures(failures)
    printer.record(record)
    return [record], int(bool(failures))


def detect_live(args, ensemble, open_stream=None):
    """The microphone, until Ctrl-C. Returns the exit status."""
    from utils.live import FILE, Microphone, listen, open_sounddevice

    printer = Printer(args, ensemble, 1)
    microphone = Microphone(args.live or None, open_stream or open_sounddevice)
    printer.begin(None)
    picture = Picture(args, ensemble) if args.plot else None
    with event_outputs(args, ensemble, printer, FILE) as (on_event, command):
        record = listen(microphone, ensemble, args.settings, hop_samples(args), command, on_event,
                        picture and picture.windows.append, picture and picture.watch)
    printer.record(record)
    if picture:
        picture.write(record)
    return 0


# --- printing ------------------------------------------------------------------------------------------------------

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
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


class Printer:
    """What a run says: JSON lines or a report on standard output, everything else on standard error."""

    def __init__(self, args, ensemble, n_inputs):
        self.args, self.ensemble, self.long = args, ensemble, n_inputs <= LONG_REPORTS
        self.full, self.empty, self.line = drawing_characters(sys.stdout)
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def paint(self, text, code):
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def out(self, text):
        """Print to standard output at once; a bar on the terminal moves out of the way."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        else:
            print(text, flush=True)

    def say(self, text):
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(shown(text), file=sys.stderr)
        else:
            print(shown(text), file=sys.stderr, flush=True)

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

    def missing_models(self):
        """Lines that say plainly when fewer models vote than should."""
        missing, names = self.ensemble.missing, self.args.names
        if not missing:
            return []
        voted, of = NUMBERS[len(names) - len(missing)], NUMBERS[len(names)]
        return [f"{voted.capitalize()} of {of} models vote:", *(f"  {name} does not: {why}" for name, why in missing.items())]

    def event(self, file, event):
        """An event of a stream that has just ended."""
        if self.args.json:
            self.out(json.dumps({"file": file, **event}))
        else:
            self.out(f"event {clock(event['start_s'])} to {clock(event['end_s'])}   {self.scores(event)}")

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
            yield f"  {clock(event['start_s'])} to {clock(event['end_s'])}   {self.scores(event)}"
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


def run(description, names, argv=None, ensemble=None, open_stream=None):
    """main() of a detector script: parse, then listen or analyse. Returns the exit status.

    ensemble: loaded models, or None to load those that args name. open_stream: a microphone, see utils.live.
    """
    args = parse_arguments(build_parser(description, names), argv)
    for folder in (args.clips, args.plot, args.explain):
        if folder:
            make_folder(folder)
    if args.live is not None:
        return detect_live(args, ensemble or load(args), open_stream)
    note = None
    if not args.file:
        folder = os.path.relpath(os.path.join(REPOSITORY, EXAMPLES))
        args.file = [path for path, error in find_inputs([folder]) if not error] if os.path.isdir(folder) else []
        note = "The bundled clips, synthesised by this project; analyse your own with --file PATH."
        if not args.file:
            from utils.artifacts import ArtifactError

            raise ArtifactError(f"{folder} has no clips: make them with python data/make_examples.py, or give --file PATH")
    return detect(args, ensemble, note)
