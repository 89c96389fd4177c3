"""Make `voice.wav`: "sa mi lo fe su na", spoken by a source and three resonators, between two rests of faint hiss.

A voice from nobody, so that it can be in the repository; `python examples/vad/voice.py` writes the same bytes again.
The resonators are Klatt's: a pulse for each opening of the vocal folds rings at the formants of a vowel.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).parent / "voice.wav"
RATE = 16_000
SYLLABLES = "sa mi lo fe su na"
FORMANTS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""Where a vowel's three lowest resonances are, in hertz."""
BANDWIDTHS = (70, 90, 130)
HISS = {"s": 0.35, "f": 0.15}
"""Consonants made of noise, and how loud; the others are a quieter voice."""
VOWEL_SECONDS, HISS_SECONDS, VOICED_SECONDS, REST_SECONDS = 0.20, 0.09, 0.06, 0.7

Array = np.ndarray[Any, Any]


def syllable(consonant: str, vowel: str) -> tuple[Array, Array, Array]:
    """Over time: the formants, the loudness of the voice, the loudness of the noise."""
    lead = int((HISS_SECONDS if consonant in HISS else VOICED_SECONDS) * RATE)
    body = int(VOWEL_SECONDS * RATE)
    rise, fall = np.hanning(800)[:400], np.hanning(2400)[1200:]
    swell = np.concatenate([rise, np.ones(body - 1600), fall])
    voice = np.concatenate([np.full(lead, 0.0 if consonant in HISS else 0.25), swell])
    noise = np.concatenate([np.hanning(lead) * HISS.get(consonant, 0.0), np.zeros(body)])
    return np.tile(FORMANTS[vowel], (lead + body, 1)).astype(float), voice, noise


def resonate(signal: Array, frequency: Array, bandwidth: float) -> Array:
    """Through a filter of two poles whose frequency changes from sample to sample."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    turn = 2 * radius * np.cos(2 * np.pi * frequency / RATE)
    gain = 1 - turn + radius**2
    out = np.zeros(len(signal))
    before, earlier = 0.0, 0.0
    for moment in range(len(signal)):
        now = gain[moment] * signal[moment] + turn[moment] * before - radius**2 * earlier
        out[moment], earlier, before = now, before, now
    return out


def speak(rng: np.random.Generator) -> Array:
    parts = [syllable(consonant, vowel) for consonant, vowel in SYLLABLES.split()]
    formants, voice, noise = (np.concatenate(column) for column in zip(*parts, strict=True))
    length = len(voice)
    seconds = np.arange(length) / RATE
    window = np.hanning(800) / np.hanning(800).sum()  # the tongue takes 50 ms from one vowel to the next
    formants = np.stack([np.convolve(np.pad(column, 400, "edge"), window, "same")[400:-400] for column in formants.T])
    pitch = (
        135 - 25 * seconds / seconds[-1] + 8 * np.sin(6 * np.pi * seconds) + rng.standard_normal(length).cumsum() * 0.02
    )
    phase = np.cumsum(pitch / RATE) % 1
    signal = np.diff(np.where(phase < 0.6, np.sin(np.pi * phase / 0.6) ** 2, 0), prepend=0) * voice
    signal += 0.003 * rng.standard_normal(length) * voice
    for frequency, bandwidth in zip(formants, BANDWIDTHS, strict=True):
        signal = resonate(signal, frequency, bandwidth)
    return signal / np.abs(signal).max() * 0.5 + np.diff(rng.standard_normal(length), prepend=0) * 0.2 * noise


def main() -> None:
    rng = np.random.default_rng(0)
    rest = np.zeros(int(REST_SECONDS * RATE))
    sound = np.concatenate([rest, speak(rng), rest])
    sound += 0.002 * rng.standard_normal(len(sound))
    with wave.open(str(TARGET), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
    print(f"{TARGET.name}: {len(sound) / RATE:.1f} s")


if __name__ == "__main__":
    main()
