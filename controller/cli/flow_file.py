"""Files of flow records."""

import math

from controller.assurance import flow_csv
from controller.cli import csv_file
from controller.cli.errors import InputInvalid
from controller.model.flow_columns import FlowColumns


def read(file: str) -> FlowColumns:
    columns = csv_file.read(file, flow_csv.REQUIRED, flow_csv.OPTIONAL)
    numbers = {
        name: csv_file.numbers(file, name, columns[name], empty=math.nan)
        for name in flow_csv.NUMBERS
        if name in columns
    }
    try:
        return flow_csv.flow_columns(columns, numbers)
    except ValueError as error:
        row, _, what = str(error).partition(":")
        raise InputInvalid(f"{file}:{int(row) + 2}:1: {what}") from error
