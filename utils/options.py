"""Options of main.py, inference_svm.py and inference_cnn.py: what there is, and what is refused.

Nothing heavy is imported, so that --help and a wrong option answer at once.
"""

import argparse
import os
import sys

from utils.artifacts import REPOSITORY, is_special
from utils.cluster import add_backend_options, check_backend_options
from utils.events import AROUND_AGAIN, DEFAULT_SETTINGS, EXIT_SHARE, FAINT_SHARE, EventSettings

MARK = "\0"  # stands before a file name with a leading dash while argparse works; no real argument can hold it


def add_trust_option(parser):
    """--trust-models, for every script that loads classical models."""
    parser.add_argument("--trust-models", action="store_true", help="also load classical models that neither came with this "
                        "project nor were trained here; a pickle from somebody else can run anything")


def build_parser(description, names):
    """Options of a detector with the models `names`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument_group("input").add_argument
    add("--file", nargs="+", action="extend", metavar="PATH", type=lambda path: path.removeprefix(MARK),
        help="files, folders (searched recursively), or - for a WAV or raw samples on standard input; without it, the bundled "
             "clips")
    add("--raw-rate", type=int, metavar="HZ", help="standard input is raw 16-bit little-endian samples of this rate")
    add("--raw-channels", type=int, metavar="N", help="interleaved channels of raw samples (default 1)")
    add("--live", nargs="?", const="", metavar="DEVICE",
        help="listen to a microphone until Ctrl-C: its number or part of its name, or the default one (needs sounddevice)")

    add = parser.add_argument_group("what counts as an event").add_argument
    add("--threshold", type=float, metavar="P",
        help="probability from which a window fires, in place of the vote and of what stands out from its background, so that "
             "less is found in noise; to miss less, try --second-look")
    add("--min-votes", type=int, metavar="N", help="models that must say scream, in place of the same")
    add("--exit-threshold", type=float, metavar="P",
        help=f"an open event goes on down to this probability (default {EXIT_SHARE} times the threshold)")
    add("--no-contrast", action="store_true",
        help="the vote alone decides, whether or not a window stands out from its background")
    add("--second-look", type=float, metavar="P",
        help=f"a window that stands out fires from this probability on ({FAINT_SHARE:g} of it, if it stands out far), when it is "
             f"heard again with less of the background ({AROUND_AGAIN:g} more while less than ten seconds are known before it); "
             f"lower finds more screams in noise (default {DEFAULT_SETTINGS.second_look})")
    add("--min-duration", type=float, default=0.0, metavar="S", help="drop events shorter than this (default %(default)s)")
    add("--max-gap", type=float, default=DEFAULT_SETTINGS.max_gap, metavar="S",
        help="pauses up to this do not end an event (default %(default)s)")
    add("--padding", type=float, default=0.0, metavar="S", help="lengthen events on both sides (default %(default)s)")
    add("--hop", type=float, metavar="S", help="seconds between windows, 0.1 to 2.9 (default 1.47, half a window)")

    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON object per file and line, nothing else on standard output")
    add("--csv", metavar="FILE", help="table with a row per event and the settings used")
    add("--audacity", action="store_true", help="write an Audacity label track beside each file")
    add("--raven", action="store_true", help="write a Raven selection table beside each file")
    add("--clips", metavar="DIR", help="cut each event out as a WAV file into DIR; of a stream mono, at 22,050 Hz")
    add("--scores", metavar="DIR", help="a table per file: each window's start and end, level, probability, votes, and what each "
        "model says")
    add("--plot", metavar="DIR", help="a picture per file: spectrogram, probabilities over time, events")
    add("--explain", metavar="DIR", help="a picture per event, of the ten most probable ones of a recording: what spoke for a "
        "scream in its strongest window; one of the strongest window where there is no event")
    add("--on-start", metavar="COMMAND", help="with --live or --file -: run COMMAND as soon as an event begins, filled in as "
        "for --on-event, the end as far as it is known")
    add("--on-event", metavar="COMMAND", help="with --live or --file -: run COMMAND when an event has ended; {start} {end} "
        "{probability} {votes} {time} are filled in, no shell")

    add("--export", nargs=2, metavar=("onnx", "DIR"), help="write the networks as ONNX into DIR, with front_end.json, checked "
        "on the --file recordings or the bundled clips; analyses nothing (needs onnx and onnxruntime)")

    group = parser.add_argument_group("how to run")
    add = group.add_argument
    add("--jobs", type=int, default=1, metavar="N", help="files analysed at the same time (default %(default)s)")
    add("--resume", action="store_true", help="keep a journal of finished files and go on where it stops: beside the "
        "--csv file, else scream-scan.journal here")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the networks run (default %(default)s: "
        "onnxruntime on the CPU if exported networks fit the weights, else torch, on a GPU if there is one; cuda: torch)")
    add("--threads", type=int, metavar="N", help="batches of windows scored at the same time (default 2; 1 with --jobs)")
    add_backend_options(group)
    add("--models", default=os.path.relpath(os.path.join(REPOSITORY, "models")), metavar="DIR",
        help="folder of the trained models (default: models, beside the scripts)")
    add_trust_option(group)
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
    args, others = parser.parse_known_args(protect_dashes(parser, sys.argv[1:] if argv is None else list(argv)))
    if others:
        hint = "; recordings go behind --file" if any(not word.startswith("-") for word in others) else ""
        parser.error(f"unrecognized arguments: {' '.join(others)}{hint}")
    streams = args.live is not None or "-" in (args.file or ())  # microphone or standard input
    if args.live is not None and args.file:
        parser.error("--live listens to the microphone; leave --file out")
    if args.file and any(not path for path in args.file):
        parser.error("--file needs a name, not an empty word")
    if args.raw_channels is not None and args.raw_rate is None:
        parser.error("--raw-channels needs --raw-rate")
    if args.raw_rate is not None and "-" not in (args.file or ()):
        parser.error("--raw-rate is about standard input; add --file -")
    for option, command in (("--on-start", args.on_start), ("--on-event", args.on_event)):
        if command is None:
            continue
        if args.live is None and args.file != ["-"]:
            parser.error(f"{option} needs --live or --file -")
        from utils.live import EventCommand

        try:
            EventCommand(command)
        except ValueError as error:
            parser.error(f"{option}: {error}")
    if streams and (args.audacity or args.raven or args.explain):
        parser.error("--audacity, --raven and --explain need files; save the sound to a file first")
    if args.clips and "-" in (args.file or ()) and args.file != ["-"]:
        parser.error("--clips cuts standard input only on its own, with --file -")
    if args.resume and streams:
        parser.error("--resume goes on with files, not with standard input or the microphone")
    check_backend_options(parser, args)
    if args.backend == "dask" and streams:
        parser.error("--backend dask works on files, not on standard input or the microphone")
    if args.jobs > 1 and "-" in (args.file or ()) and len(args.file) > 1:
        parser.error("--jobs works on files; analyse standard input on its own")
    if args.export and args.export[0] != "onnx":
        parser.error(f"--export {args.export[0]}: the only format is onnx, as --export onnx DIR")
    if args.export and streams:
        parser.error("--export is checked on files, not on standard input or the microphone")
    for name in ("raw_rate", "raw_channels", "jobs", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.min_votes is not None and not 1 <= args.min_votes <= len(args.names):
        parser.error(f"--min-votes must lie between 1 and {len(args.names)}")
    if args.no_contrast and (args.threshold is not None or args.min_votes is not None):
        parser.error("--no-contrast leaves the vote to decide alone; with --threshold or --min-votes those decide anyway")
    if args.second_look is None:
        args.second_look = DEFAULT_SETTINGS.second_look
    elif args.no_contrast or args.threshold is not None or args.min_votes is not None:
        parser.error("--second-look is for windows that stand out from their background; with --threshold, --min-votes or "
                     "--no-contrast nothing asks whether they do")
    if args.hop is not None and not 0.1 <= args.hop <= 2.9:
        parser.error("--hop must lie between 0.1 and 2.9 seconds")
    if args.csv:
        check_table_path(parser, args)
    try:
        args.settings = EventSettings(args.threshold, args.min_votes, args.exit_threshold, args.min_duration, args.max_gap,
                                      args.padding, not args.no_contrast, args.second_look)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_table_path(parser, args):
    """Refuse a --csv file that cannot be one before hours of sound are analysed for it, and one that is a recording."""
    from utils.dataset import AUDIO_EXTENSIONS

    if args.csv == "-":
        parser.error("--csv needs a file; --json writes to standard output")
    folder = os.path.dirname(os.path.abspath(args.csv))
    if not os.path.isdir(folder):
        parser.error(f"--csv {args.csv}: no such folder")
    if os.path.isdir(args.csv):
        parser.error(f"--csv {args.csv}: is a folder; name a file")
    if any(os.path.exists(path) and os.path.exists(args.csv) and os.path.samefile(path, args.csv) for path in args.file or ()):
        parser.error(f"--csv {args.csv}: is a recording to be analysed; name a file for the table")
    if os.path.splitext(args.csv)[1].lower() in AUDIO_EXTENSIONS:
        parser.error(f"--csv {args.csv}: has the ending of a recording; name a file for the table")
    if is_special(args.csv) and not os.path.exists(args.csv):
        parser.error(f"--csv {args.csv}: is not open")
    if args.resume and is_special(args.csv):
        parser.error(f"--csv {args.csv}: --resume keeps a journal beside it; name a regular file")
    if not os.access(args.csv if os.path.exists(args.csv) else folder, os.W_OK):
        parser.error(f"--csv {args.csv}: no permission to write it")


def hop_samples(args):
    """Samples from one window to the next."""
    from utils.audio import SAMPLE_RATE, WINDOW_HOP

    return WINDOW_HOP if args.hop is None else round(args.hop * SAMPLE_RATE)


def result_settings(args, ensemble):
    """Everything that changes results, as the CSV and the journal keep it."""
    from utils.audio import SAMPLE_RATE

    return {"models": list(ensemble.names), "weights": ensemble.weights, **vars(args.settings),
            "hop_s": round(hop_samples(args) / SAMPLE_RATE, 4)}
