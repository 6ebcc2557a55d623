"""Where parts of a pipeline are: in a folder of their own, or in a subfolder of the pipeline's."""

import os

__all__ = ["find_part"]


def find_part(source: str | os.PathLike, part: str, file: str = "config.json") -> str:
    """The subfolder of ``source`` that holds ``part``; empty if ``source`` itself does.

    Args:
        source: local folder, or repository of the hub; one in the hub's cache needs no network.
        part: such as "vae".
        file: one that the part has.

    Raises:
        ValueError: there is no such folder or repository, or the part is not in it.
    """
    import huggingface_hub

    candidates = (part, "")
    if os.path.isdir(source):
        for folder in candidates:
            if os.path.isfile(os.path.join(source, folder, file)):
                return folder
        raise ValueError(f"{str(source)!r} has neither {part}/{file} nor {file}: give the folder of the {part}")
    names = [f"{folder}/{file}" if folder else file for folder in candidates]
    for look in (huggingface_hub.try_to_load_from_cache, huggingface_hub.file_exists):
        for folder, name in zip(candidates, names):
            try:
                found = look(str(source), name)
            except Exception as error:  # no network, in the words of the hub's HTTP library, or no name of a repository
                raise ValueError(f"{str(source)!r} is no folder, and the hub does not answer: {error}") from error
            if isinstance(found, str) or found is True:
                return folder
    raise ValueError(f"{str(source)!r} is no folder, and no repository of the hub that has {' or '.join(names)}")
