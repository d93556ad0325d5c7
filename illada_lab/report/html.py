def write_report(path, results):
    return path
