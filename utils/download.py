DOWNLOADS = {"esc50": None, "noise-of-life": None}
KAGGLE_INSTRUCTION = ""
def download(name): raise SystemExit
