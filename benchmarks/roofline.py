"""How near the 1x1 and the spatial layers of .tflite files come to what this machine can do, in short.

python benchmarks/roofline.py FILE.tflite... [--threads N ...]
"""

import argparse

from keras_nin.benchmark import measure_files, roofline
from keras_nin.formatting import format_host, format_markdown_table

_COLUMNS = ("file", "threads", "us", "kind", "layers", "GMAC/s", "of roof", "of peak")


def main():
    """Measure the files and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    made = roofline.add_peaks(measure_files(given.files, threads=given.threads))
    host = made.host
    print(format_host(host))
    print(*(f"Warning: {warning}" for warning in made.warnings), sep="\n")
    known = dict.fromkeys(peak for profile in made.profiles for peak in profile.peaks)
    rows = [[peak.dtype, str(peak.threads), f"{peak.gmacs_per_s:.1f}", f"{peak.gbytes_per_s:.1f}"] for peak in known]
    print(format_markdown_table(("data type", "threads", "GMAC/s at most", "GB/s"), rows), end="\n\n")
    print(format_markdown_table(_COLUMNS, [row for profile in made.profiles for row in _rows(profile)]))


def _rows(profile):
    for share in roofline.summarize_efficiency(roofline.compute_efficiency(profile)):
        yield [
            profile.file,
            str(profile.threads),
            f"{profile.total.median:,.0f}",
            share.name,
            str(share.layers),
            f"{share.macs / share.us / 1000:.1f}",
            f"{share.efficiency:.0%}",
            f"{share.peak_share:.0%}",
        ]


if __name__ == "__main__":
    main()
