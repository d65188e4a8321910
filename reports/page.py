def write_report(folder, results, broken):
    return folder / "report.html"
