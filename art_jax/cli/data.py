"""`art-jax data check`: what is in a file, and what is wrong with it."""

from art_jax.data import check
from art_jax.errors import DataError


def run(options) -> None:
    """Runs the verb `data check`; a file with problems ends in exit code 3."""
    report = check.check_file(options.file)
    print(check.format_report(report))
    if not report.is_readable:
        total = sum(report.num_problems.values())
        raise DataError(
            f"{total:,} problems would stop a reader: mend them as listed above.",
            options.file,
        )
