"""The extended resource by which the GPUs of a pool are counted and asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from servingplan.api.models_v1alpha1 import Model
from servingplan.api.pools_v1alpha1 import Dra, NodePool
from servingplan.errors import InputError
from servingplan.model import names
from servingplan.model.hardware import GpuType
from servingplan.model.world import DeviceClass, Node
from servingplan.planning.devices import MIG, asked_of, class_of, like, slice_in
from servingplan.profiles.catalogue import Catalogue

_CUDA_REPOSITORY = "vllm-openai"
"""The repository of vLLM's own images, which are for GPUs of NVIDIA. Those for AMD are called vllm-openai-rocm."""
_ROCM_ADVICE = "give an image of the engine that is built for ROCm, of the same version"
_VENDOR_NAMES = {"nvidia": "NVIDIA", "amd": "AMD"}


def resource_of(pool: NodePool, gpu: GpuType | None, nodes: Iterable[Node], catalogue: Catalogue) -> str:
    """The name of the resource by which the pool's GPUs are requested.

    It is the given one, else the one of the card's vendor if the catalogue knows the card, else the one that the nodes have if
    it is only one.
    """
    if pool.resource_name is not None:
        return pool.resource_name
    vendor = vendor_of(gpu, catalogue)
    if vendor is not None:
        return f"{vendor}.com/gpu"
    if pool.dra is not None:
        return "amd.com/gpu" if pool.dra.device_class.endswith(".amd.com") else names.GPU_RESOURCE
    offered = {name for node in nodes for name, count in offered_by(node).items() if count}
    return offered.pop() if len(offered) == 1 else names.GPU_RESOURCE


def vendor_of(gpu: GpuType | None, catalogue: Catalogue) -> str | None:
    """The vendor of a card that the catalogue knows; None for a card that the plan itself declares."""
    found = None if gpu is None else catalogue.find_gpu(gpu.name)
    return None if found is None else found.vendor


def offered_by(node: Node) -> dict[str, int]:
    """The allocatable GPUs of a node by the name of their resource."""
    return node.gpu_resources or ({names.GPU_RESOURCE: node.gpus} if node.gpus else {})


def counted_by(resource: str, node: Node) -> Node:
    """The node with the GPUs that a pool of this resource has on it."""
    gpus = offered_by(node).get(resource, 0)
    return node if node.gpus == gpus else node.model_copy(update={"gpus": gpus})


def shown_by(pool: NodePool, resource: str, gpus: int, classes: Iterable[DeviceClass]) -> dict[str, Any]:
    """The fields of a ``Node`` that show this many free GPUs of a pool."""
    if pool.dra is not None:
        return {"gpus": 0, "devices": like(pool.dra, classes, gpus)}
    if resource == names.GPU_RESOURCE:
        return {"gpus": gpus}
    return {"gpus": 0, "gpu_resources": {resource: gpus}}


def resource_errors(
    pool: NodePool, gpu: GpuType | None, resource: str, catalogue: Catalogue, models: Iterable[Model] = ()
) -> list[InputError]:
    """Contradictions between the vendor of the card, the resource, and the images of the models' engines."""
    where = f"spec.nodePools[{pool.name}]"
    vendor = vendor_of(gpu, catalogue)
    owner = resource.partition("/")[0].removesuffix(".com")
    if gpu is not None and vendor is not None and owner != vendor:
        advice = (
            f"does not count GPUs of {_VENDOR_NAMES.get(vendor, vendor)}, whose {gpu.name} is: give {vendor}.com/gpu, or "
            "correct gpu"
        )
        return [InputError(f"{where}.resourceName", pool.resource_name, advice)]
    errors = []
    if "/mig-" in resource and gpu is not None and pool.gpu_spec is None:
        errors.append(InputError(f"{where}.resourceName", pool.resource_name, _slices_of(gpu)))
    return errors + _image_errors(pool, owner, models)


def slice_errors(pool: NodePool, gpu: GpuType | None, classes: Iterable[DeviceClass]) -> list[InputError]:
    """What is wrong with a pool whose devices are slices of a card: the plan does not say what one slice can do."""
    if pool.dra is None or gpu is None or pool.gpu_spec is not None:
        return []
    if slice_in(_asked(pool.dra, classes)) is None:
        return []
    return [InputError(f"spec.nodePools[{pool.name}].dra.deviceClass", pool.dra.device_class, _slices_of(gpu))]


def are_apart(pool: NodePool, resource: str, classes: Iterable[DeviceClass]) -> bool:
    """Whether the GPUs of a pool are MIG slices."""
    if pool.dra is None:
        return "/mig-" in resource
    found = slice_in(_asked(pool.dra, classes))
    return found is not None and found[1] == MIG


def _asked(dra: Dra, classes: Iterable[DeviceClass]) -> dict[str, str]:
    """The attributes that the devices of a pool have, as far as its class is understood."""
    found = class_of(dra, classes)
    return dra.asked if found is None else asked_of(dra, found)


def _slices_of(gpu: GpuType) -> str:
    return (
        f"counts slices, which have neither the memory nor the speed of a whole {gpu.name}: give gpuSpec with the figures "
        "of one slice, and a name of your own as gpu"
    )


def _image_errors(pool: NodePool, owner: str, models: Iterable[Model]) -> list[InputError]:
    """Whether the engine's image is one for the GPUs of this vendor, as far as its name tells."""
    field, image = f"spec.nodePools[{pool.name}].engineImage", pool.engine_image
    if owner == "amd":
        if image is not None and _repository(image) == _CUDA_REPOSITORY:
            return [InputError(field, image, f"is vLLM's image for GPUs of NVIDIA; {_ROCM_ADVICE}")]
        if image is None and not all(_is_rocm(model.engine.image) for model in models):
            advice = f"is needed on GPUs of AMD: models[].engine.image is for those of NVIDIA; {_ROCM_ADVICE}"
            return [InputError(field, None, advice)]
        return []
    advice = f"is built for ROCm, and the GPUs of pool {pool.name} are not of AMD: "
    if image is not None:
        return (
            [InputError(field, image, advice + "give one for these GPUs, or leave it out")] if _is_rocm(image) else []
        )
    return [
        InputError(
            f"spec.models[{model.name}].engine.image",
            model.engine.image,
            advice + f"name it as engineImage of the pools of AMD, or give {field}",
        )
        for model in models
        if _is_rocm(model.engine.image)
    ]


def _is_rocm(image: str) -> bool:
    """Whether the name of an image says that it is for GPUs of AMD, as those of rocm/vllm and vllm/vllm-openai-rocm do."""
    return "rocm" in image.lower()


def _repository(image: str) -> str:
    """The last part of an image's name, without tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0].lower()
