"""`python -m ladm_hf` is `ladm`."""

from ladm_hf.cli.app import app

if __name__ == "__main__":
    app(prog_name="ladm")
