"""The run that main.py, inference_svm.py and inference_cnn.py share: analyse what the options name, print and write.

Imports of models and of optional outputs happen where they are used, so that --help and a wrong option answer at once.
"""

import argparse
import contextlib
import functools
import gc
import os
import sys
import time
from concurrent.futures import BrokenExecutor

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: threads share windows, not matrix products

from utils.artifacts import REPOSITORY, ArtifactError, AudioError, is_special, make_folder, sha256_of
from utils.cluster import joblib_backend
from utils.inputs import EXAMPLES, find_inputs, open_blocks, watch_progress
from utils.options import build_parser, hop_samples, parse_arguments, result_settings
from utils.report import Printer, shown


def chosen_threads(args):
    """Threads of one process: as asked for, else two, or one where several processes share the cores."""
    shared = args.jobs > 1 or args.backend != "local"
    return args.threads or (1 if shared else min(2, os.cpu_count() or 1))


@contextlib.contextmanager
def without_garbage_collection():
    """For imports and loading: they leave next to no garbage, but each search for it walks through all of torch.

    What is there at the end is never searched again, not even at exit (benchmarks/start_up.py measures a run with it).
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def load(args):
    with without_garbage_collection():
        from utils.ensemble import load_ensemble

        return load_ensemble(args.models, args.names, args.device, chosen_threads(args), args.trust_models)


def unexpected(path, error):
    return f"{shown(path)}: unexpected {type(error).__name__} ({error})"


def analyse(path, args, ensemble, on_event=None, poll=None, progress=False, on_start=None, watch=None):
    """Analyse one input and write the outputs that belong to it. Returns (record, list of sentences about failures).

    A recording that cannot be analysed gives the record {"file": ..., "error": ...}; nothing is raised for it. That of a
    damaged one has the sentences about it as "warnings".
    """
    from utils.audio import print_warning
    from utils.scan import local_time, scan

    warnings = []

    def warn(sentence):
        warnings.append(sentence)
        print_warning(sentence)

    blocks, hop = open_blocks(path, args.raw_rate, args.raw_channels, warn), hop_samples(args)
    arriving, signals = None, contextlib.nullcontext()
    if path == "-":
        from utils.pipe import ReadAhead, stopped_by_signals

        blocks = arriving = ReadAhead(blocks)
        signals = stopped_by_signals(arriving)
    if watch:
        blocks = watch(blocks)
    if progress:
        blocks = watch_progress(blocks, path)
    scored = ScoredWindows(args, ensemble)

    def must_wait():
        return arriving.n_waiting < hop

    def on_window(window):
        scored.add(window)
        if poll:
            poll()

    try:
        with signals:
            record = scan(scored.watch(blocks), ensemble, args.settings, hop, file=path, on_event=on_event, on_window=on_window,
                          must_wait=must_wait if arriving else None, on_start=on_start, clock=local_time if arriving else None)
    except AudioError as error:
        return {"file": path, "error": str(error)}, [str(error)]
    except (BrokenPipeError, ArtifactError):  # not about this recording
        raise
    except Exception as error:  # a night's run must not die of one file; the sentence says it is not the user's fault
        return {"file": path, "error": unexpected(path, error)}, [unexpected(path, error)]
    if warnings:
        record["warnings"] = warnings
    return record, write_outputs(record, output_writers(args, record, scored, ensemble))


class ScoredWindows:
    """What --plot and --scores need of a recording, gathered while it is scanned; nothing without them."""

    def __init__(self, args, ensemble):
        self.args, self.names, self.windows, self.overview = args, ensemble.names, [], None
        if args.plot:
            from utils.plots import SpectrogramOverview

            self.overview = SpectrogramOverview()

    def watch(self, blocks):
        return self.overview.watch(blocks) if self.overview else blocks

    def add(self, window):
        if self.args.plot or self.args.scores:
            self.windows.append(window)

    def writers(self, record):
        """Functions that write the outputs asked for."""
        if self.args.scores:
            from utils.event_files import write_scores

            yield lambda: write_scores(self.args.scores, record["file"], self.windows, self.names)
        if self.args.plot:
            from utils.plots import plot_path, plot_recording

            yield lambda: plot_recording(plot_path(self.args.plot, record["file"]), self.overview, self.windows, self.names,
                                         record, self.args.threshold)


def output_writers(args, record, scored, ensemble):
    """Functions that write the outputs asked for beside or about one recording."""
    yield from writers_from_record(args, record, ensemble)
    yield from scored.writers(record)


def writers_from_record(args, record, ensemble, only_missing=False):
    """Functions that write the outputs for which a record is enough; with only_missing, those that are not there."""
    from utils import event_files

    if args.audacity and not (only_missing and os.path.exists(record["file"] + event_files.AUDACITY_SUFFIX)):
        yield lambda: event_files.write_audacity(record)
    if args.raven and not (only_missing and os.path.exists(record["file"] + event_files.RAVEN_SUFFIX)):
        yield lambda: event_files.write_raven(record)
    if args.clips and record["file"] != "-":  # a stream's were written as they came
        yield lambda: event_files.write_clips(
            event_files.without_clip(record, args.clips) if only_missing else record, args.clips)
    if args.explain:
        from utils.explain import explain_recording, lacks_pictures

        if not only_missing or lacks_pictures(record, args.explain):
            yield lambda: explain_recording(record, ensemble, args.explain, hop_samples(args))


def lacks_scores(args, path):
    """Whether a table of scores or a picture of a recording is asked for and not there: only another analysis makes them."""
    outputs = []
    if args.scores:
        from utils.event_files import scores_path

        outputs.append(scores_path(args.scores, path))
    if args.plot:
        from utils.plots import plot_path

        outputs.append(plot_path(args.plot, path))
    return not all(map(os.path.exists, outputs))


def write_outputs(record, writers):
    """Write outputs of a recording; one that fails keeps none of the others back. Returns sentences about failures."""
    failures = []
    for write in writers:
        try:
            write()
        except (AudioError, ArtifactError) as error:
            failures.append(str(error))
        except Exception as error:  # the record is there; the other outputs and files shall be, too
            failures.append(unexpected(record["file"], error))
    return failures


@functools.cache
def worker_ensemble(**options):
    """The models of a worker process: loaded once for all its files."""
    return load(argparse.Namespace(**options))


def analyse_in_worker(position, path, args):
    options = {name: getattr(args, name) for name in ("models", "names", "device", "threads", "trust_models", "jobs", "backend")}
    return position, *analyse(path, args, worker_ensemble(**options))


def analyse_in_processes(paths, args):
    """Yield (position, record, failures) for each of {position: path}, in the order in which they are done."""
    from joblib import Parallel, delayed

    n_jobs = min(args.jobs, max(2, len(paths)))  # with one, joblib would work in this process
    yield from Parallel(n_jobs, return_as="generator_unordered")(
        delayed(analyse_in_worker)(position, path, args) for position, path in paths.items())


def analyse_alone(position, path, args):
    """One result of analyse_in_processes, for a file that may be what ended a process."""
    try:
        [result] = analyse_in_processes({position: path}, args)
        return result
    except BrokenExecutor:
        sentence = f"{shown(path)}: the process that analysed it was ended from outside, maybe for lack of memory"
        return position, {"file": path, "error": sentence}, [sentence]


def analyse_all(paths, args, ensemble):
    """Yield (position in `paths`, record, failures) for each path; with --jobs in the order in which they are done."""
    if args.backend == "local" and (args.jobs == 1 or len(paths) < 2):
        for position, path in enumerate(paths):
            yield position, *analyse(path, args, ensemble)
        return
    left = dict(enumerate(paths))
    with joblib_backend(args.backend, args.scheduler):
        while left:
            try:
                for result in analyse_in_processes(left.copy(), args):
                    del left[result[0]]
                    yield result
            except BrokenExecutor:
                for position in list(left)[: 2 * args.jobs]:  # about as many were in hand; one of them may be the cause
                    yield analyse_alone(position, left.pop(position), args)


def open_journal(args, ensemble, n_inputs):
    """The journal of a run over many files with --resume or --csv, else None."""
    if not args.resume and not (args.csv and n_inputs > 1 and not is_special(args.csv)):
        return None
    from utils.audio import MAX_SAMPLE, MIN_PERIOD, QUIET_PEAK
    from utils.background_noise import LEAST_GAIN_DB, OVERSUBTRACTION, QUIETEST
    from utils.ensemble import LEAST_PROBABILITY, MODEL_FILES
    from utils.events import RULE
    from utils.features import SIGNAL_SETTINGS
    from utils.journal import Journal
    from utils.loudness import CLEAR_DB, LEVEL_FRAME, LOUD_SHARE, SCREAM_BAND
    from utils.noise_level import MOST_SHIFT, NOISE_FILE, NOISY_FROM, PART_LACKS, PART_SHIFT
    from utils.ranking import MOST_GAIN, NEAR_S, NEARLY, PARTS, SHARPNESS, SHORT_S
    from utils.signal_settings import TRIM_DB

    files = {name: os.path.join(args.models, MODEL_FILES[name]) for name in ensemble.names}
    settings = result_settings(args, ensemble) | {
        "calibrations": ensemble.calibrations,
        "signal": SIGNAL_SETTINGS | {"quiet_peak": QUIET_PEAK, "least_period": MIN_PERIOD, "trim_db": TRIM_DB,
                                     "max_sample": MAX_SAMPLE},
        "event_rule": RULE | {"oversubtraction": OVERSUBTRACTION, "least_gain_db": LEAST_GAIN_DB, "scream_band": SCREAM_BAND,
                              "clear_db": CLEAR_DB, "level_frame": LEVEL_FRAME, "least_probability": LEAST_PROBABILITY,
                              "scores": "most probable look"},
        "ranking": {"near_s": NEAR_S, "sharpness": SHARPNESS, "loud_share": LOUD_SHARE, "most_gain": MOST_GAIN, "parts": PARTS,
                    "nearly": [SHORT_S, NEARLY]},
        "noise": {"from": NOISY_FROM, "most_shift": MOST_SHIFT, "quietest": QUIETEST, "part": [PART_SHIFT, PART_LACKS],
                  "level": sha256_of(noise) if os.path.isfile(noise := os.path.join(args.models, NOISE_FILE)) else None},
        "model_hashes": {name: sha256_of(path) for name, path in files.items() if os.path.isfile(path)},
        "outputs": {name: os.path.abspath(value) if isinstance(value := getattr(args, name), str) else value
                    for name in ("audacity", "raven", "clips", "plot", "explain", "scores")},
    }
    return Journal(f"{args.csv}.journal" if args.csv else "scream-scan.journal", settings, resume=args.resume)


def analyse_or_recall(inputs, args, ensemble, journal):
    """Yield (record, failures) for each input, in order: from the journal, from its known error, or by analysing it.

    What a recording from the journal has lost of its outputs is written again.
    """
    known = {}
    for path, error in inputs:
        if journal and lacks_scores(args, path):
            journal.forget(path)
        recalled = journal.find(path) if journal and path != "-" and not error else None
        if error:
            known[path] = {"file": path, "error": error}, [error]
        elif recalled:
            known[path] = recalled, None
    fresh = [path for path, _ in inputs if path not in known]
    results, waiting, turn = analyse_all(fresh, args, ensemble), {}, 0
    for path, _ in inputs:
        if path in known:
            record, failures = known[path]
            if failures is None:  # from the journal
                failures = write_outputs(record, writers_from_record(args, record, ensemble, only_missing=True))
            yield record, failures
            continue
        while turn not in waiting:
            position, record, failures = next(results)
            if journal and path != "-" and (not failures or "error" in record):
                journal.add(fresh[position], record)  # at once, whoever's turn it is: after a kill it counts
            waiting[position] = record, failures
        yield waiting.pop(turn)
        turn += 1


def detect(args, ensemble=None, note=None):
    """Analyse what args.file names, print and write everything asked for. Returns the exit status.

    ensemble: loaded models, or None to load them. note: a line to print above the results.
    """
    began = time.perf_counter()
    if args.csv and args.file != ["-"]:
        from utils.event_files import check_replaceable

        check_replaceable(args.csv)
    inputs = find_inputs(args.file, leave_out=args.clips)
    if args.backend == "local":
        args.jobs = min(args.jobs, len(inputs))  # one file is analysed here, with all threads
    ensemble = ensemble or load(args)
    printer = Printer(args, ensemble, len(inputs))
    printer.begin(note)
    printer.threads(chosen_threads(args), args.jobs)
    loaded = time.perf_counter()
    if args.file == ["-"]:
        records, n_failed, all_kept = detect_stream(args, ensemble, printer)
    else:
        records, n_failed, all_kept = detect_files(inputs, args, ensemble, printer)
    many = len(inputs) > 1 or args.file != [inputs[0][0]]
    printer.end(records, n_failed, loaded - began, time.perf_counter() - loaded, many=many and not note)
    return 0 if all_kept and not n_failed and not printer.lost else 1


def detect_files(inputs, args, ensemble, printer):
    """Files one after another, or several at a time: (records with what the summary needs, number of failed files, all_kept).

    all_kept: whether the journal, if there is one, holds them all.
    """
    from tqdm import tqdm

    records, n_failed, told = [], 0, False
    journal = open_journal(args, ensemble, len(inputs))
    with journal or contextlib.nullcontext():
        if len(inputs) == 1 and not inputs[0][1] and not journal and args.backend == "local":
            results = iter([analyse(inputs[0][0], args, ensemble, progress=True)])
        else:
            results = analyse_or_recall(inputs, args, ensemble, journal)
        for record, failures in tqdm(results, total=len(inputs), unit="file", delay=1, leave=False,
                                     disable=None if len(inputs) > 1 else True):
            printer.failures(failures)
            printer.record(record)
            n_failed += bool(failures)
            if journal and journal.failure and not told:
                printer.failures([journal.failure])
                told = True
            records.append({key: record[key] for key in ("file", "duration_s", "events") if key in record})
        if args.csv:
            from utils.event_files import write_csv
            from utils.tables import first_row

            if any("duration_s" in record for record in records) or not first_row(args.csv):
                write_csv(args.csv, records, result_settings(args, ensemble))
            else:
                printer.say(f"{args.csv}: stays as it was, for no recording could be analysed")
        if journal and not args.resume:
            journal.remove()  # the run is complete; with --resume it stays, for files that are added later
    return records, n_failed, not told


@contextlib.contextmanager
def event_outputs(args, ensemble, printer, file):
    """What happens at each event of a stream: (on_event, sentences about failures, EventCommands for the caller to run, watch).

    watch passes on the blocks of the stream and keeps what clips are cut out of; None without --clips. A full disk must not end
    the watch: a table that cannot be written is said once.
    """
    from utils.live import EventCommand, EventCommands

    failures = []

    def tell(sentence):
        failures.append(sentence)
        printer.failures([sentence])

    with contextlib.ExitStack() as stack:
        table = None
        if args.csv:
            from utils.event_files import EventTable

            try:
                table = stack.enter_context(EventTable(args.csv, result_settings(args, ensemble), of_stream=True))
            except OSError as error:
                tell(f"{args.csv}: cannot be written ({error.strerror}); listening goes on without it")
        clips = None
        if args.clips:
            from utils.event_files import StreamClips

            clips = StreamClips(args.clips, file, args.settings.gap_s)
        commands = EventCommands(args.on_start and EventCommand(args.on_start, option="--on-start"),
                                 args.on_event and EventCommand(args.on_event))
        commands.report_to(printer.say)

        def on_event(event):
            nonlocal table, clips
            if table:
                try:
                    table.write(file, [event])
                except OSError as error:
                    tell(f"{args.csv}: cannot be written any more ({error.strerror})")
                    table = None
            if clips:
                try:
                    clips.write(event)
                except ArtifactError as error:
                    tell(f"{error}; no more clips are written")
                    clips = None
            printer.event(file, event)  # last: a reader that does not read would keep the others waiting

        yield on_event, failures, commands, clips.watch if clips else None


def detect_stream(args, ensemble, printer):
    """Standard input: events are printed, written and acted on as they end. Returns ([record], number of failures, all_kept)."""
    with event_outputs(args, ensemble, printer, "-") as (on_event, output_failures, commands, watch):
        def command_and_on_event(event):
            commands.ended(event)
            on_event(event)

        record, failures = analyse("-", args, ensemble, command_and_on_event, commands.poll, not args.json, commands.begun, watch)
        commands.finish()
    printer.failures(failures)
    printer.record(record)
    return [record], int(bool(failures)), not output_failures


def detect_live(args, ensemble, open_stream=None):
    """The microphone, until Ctrl-C. Returns the exit status."""
    from utils.live import FILE, Microphone, listen, open_sounddevice

    printer = Printer(args, ensemble, 1)
    microphone = Microphone(args.live or None, open_stream or open_sounddevice)
    printer.begin(None)
    scored = ScoredWindows(args, ensemble)
    with event_outputs(args, ensemble, printer, FILE) as (on_event, failures, commands, keep):
        def watch(blocks):
            return scored.watch(keep(blocks) if keep else blocks)

        record = listen(microphone, ensemble, args.settings, hop_samples(args), commands, on_event, scored.add, watch)
    not_written = write_outputs(record, scored.writers(record))
    printer.failures([*record.get("warnings", ()), *not_written])
    printer.record(record)
    return 1 if failures or not_written or printer.lost or "warnings" in record else 0


def export(args):
    """--export: write the networks for other programs and say what was checked. Returns the exit status."""
    from utils.export import FRONT_END, export_onnx

    folder = args.export[1]
    make_folder(folder)
    recordings = args.file or [os.path.join(REPOSITORY, EXAMPLES)]
    differences, missing = export_onnx(folder, args.models, args.names, recordings)
    for name, difference in differences.items():
        print(f"wrote {shown(os.path.join(folder, name))}: logits differ from torch's by {difference:.1e} at most")
    print(f"wrote {shown(os.path.join(folder, FRONT_END))}")
    for name, why in missing.items():
        print(f"{name} is not exported: {shown(why)}", file=sys.stderr)
    return 1 if missing else 0


def run(description, names, argv=None, ensemble=None, open_stream=None):
    """main() of a detector script: parse, then listen or analyse. Returns the exit status.

    ensemble: loaded models, or None to load those that args name. open_stream: a microphone, see utils.live.
    """
    args = parse_arguments(build_parser(description, names), argv)
    for folder in (args.clips, args.plot, args.explain, args.scores):
        if folder:
            make_folder(folder)
    if args.live is not None:
        return detect_live(args, ensemble or load(args), open_stream)
    note = None
    if args.export:
        return export(args)
    if not args.file:
        folder = os.path.relpath(os.path.join(REPOSITORY, EXAMPLES))
        args.file = [path for path, error in find_inputs([folder]) if not error] if os.path.isdir(folder) else []
        note = "The bundled clips, synthesised by this project; analyse your own with --file PATH."
        if not args.file:
            raise ArtifactError(f"{folder} has no clips: make them with python {EXAMPLES}/make_examples.py, or give --file PATH")
    return detect(args, ensemble, note)
