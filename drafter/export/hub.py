"""Upload of an export to the model hub."""

from pathlib import Path

FILES = ["config.json", "model*.safetensors", "model.safetensors.index.json", "*.md", "training.json", "draft_*.json"]
REPLACED = [name for name in FILES if name not in ("*.md", "training.json", "config.json")]
"""What an older upload may have left under another name, and engines would read beside the new files."""


def check_name(repository: str) -> None:
    """Raise a ValueError unless the hub would take this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"push={repository!r}: {str(error).splitlines()[0]}; name it OWNER/NAME") from None
    if repository.count("/") != 1:
        raise ValueError(f"push={repository!r}: name it OWNER/NAME")


def push(directory: Path, repository: str, private: bool = True) -> str:
    """Upload an export that was checked; returns its address.

    Args:
        private: of a repository that is made now; one that exists stays as it is.
    Raises:
        ValueError: the name is wrong, there is no token, or the hub refused.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    check_name(repository)
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            allow_patterns=FILES,
            delete_patterns=REPLACED,
            commit_message="Upload a block-diffusion drafter",
        )
    except LocalTokenNotFoundError:
        raise ValueError(f"push={repository!r}: no token; log in with `hf auth login`") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise ValueError(f"push={repository!r}: not uploaded ({str(error).splitlines()[0]}); try again") from None
    return str(address)
