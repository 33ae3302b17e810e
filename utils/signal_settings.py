"""Numbers of the signal chain that training and prediction must share. Decodes nothing and imports nothing."""

SAMPLE_RATE = 22_050  # Hz
N_FFT = 2048
HOP = 512  # samples between STFT frames
WINDOW_FRAMES = 128
WINDOW = (WINDOW_FRAMES - 1) * HOP  # 65,024 samples = 2.949 s: exactly 128 centred STFT frames
WINDOW_S = WINDOW / SAMPLE_RATE
WINDOW_HOP = WINDOW // 2  # windows of a recording follow each other at half a window
MAX_GAIN_DB = 55  # a noise floor that peaks lower than -55 dBFS never becomes full scale
MAX_GAIN = float(round(10 ** (MAX_GAIN_DB / 20)))
QUIET_PEAK = 2.5e-4  # -72 dBFS, 8 steps of 16-bit audio: a window below this holds nothing to score
TRIM_DB = 60  # dB below a training clip's peak that counts as silence
