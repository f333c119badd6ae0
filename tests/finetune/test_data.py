from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import v2

from optuna_biotune.finetune import reading
from optuna_biotune.finetune.data import LabelledImages, check_classes
from optuna_biotune.finetune.splits import (
    Fold,
    batches,
    load_training_data,
    split_train,
    stratified_folds,
)
from tests.finetune.conftest import Digits

Item = tuple[Any, Any]


def load_images(dataset: Any, transform: Any, name: str) -> LabelledImages:
    return reading.load_images({name: dataset}, transform)


def items(n: int = 6, size: int = 4) -> list[Item]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(3, size, size, generator=generator), i % 2) for i in range(n)]


def with_item(index: int, item: Any) -> list[Any]:
    changed: list[Any] = items()
    changed[index] = item
    return changed


def test_a_list_and_a_tensor_dataset_and_a_subset_of_it_give_the_same_data() -> None:
    as_list = items()
    stacked = TensorDataset(
        torch.stack([image for image, _ in as_list]), torch.tensor([label for _, label in as_list])
    )
    expected = load_images(as_list, None, "train")
    for dataset in (stacked, Subset(stacked, range(len(stacked)))):
        data = load_images(dataset, None, "train")
        assert torch.equal(data.images, expected.images)
        assert torch.equal(data.labels, expected.labels)
        assert data.images.dtype == torch.float32
        assert data.labels.dtype == torch.int64


def test_the_transform_is_applied_once_to_every_image() -> None:
    seen: list[float] = []

    def transform(image: Tensor) -> Tensor:
        seen.append(float(image.sum()))
        return image * 2

    raw = items()
    data = load_images(raw, transform, "train")
    assert seen == [float(image.sum()) for image, _ in raw]
    assert torch.equal(data.images, torch.stack([image * 2 for image, _ in raw]))


def test_pil_images_are_read_by_a_transform_of_torchvision() -> None:
    to_pil = v2.ToPILImage()
    raw = [(to_pil(image), label) for image, label in items()]
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize(2)])
    data = load_images(raw, transform, "train")
    assert data.images.shape == (6, 3, 2, 2)
    assert type(data.images) is Tensor
    assert 0.2 < float(data.images.mean()) < 0.8


@pytest.mark.parametrize("label", [1, np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)])
def test_integer_labels_of_every_kind_are_read(label: Any) -> None:
    assert int(load_images(with_item(2, (torch.zeros(3, 4, 4), label)), None, "t").labels[2]) == 1


@pytest.mark.parametrize("label", [1.0, "1", None, torch.tensor(1.0), torch.tensor([1, 0])])
def test_a_label_that_is_no_integer_is_refused_by_index(label: Any) -> None:
    with pytest.raises(TypeError, match=r"labels of `train` must be integers, but item 2 has"):
        load_images(with_item(2, (torch.zeros(3, 4, 4), label)), None, "train")


def test_a_negative_label_is_refused_by_index() -> None:
    with pytest.raises(ValueError, match=r"0 or more, but `val` has -1 at index 3"):
        load_images(with_item(3, (torch.zeros(3, 4, 4), -1)), None, "val")


def test_images_of_unequal_size_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"item 4 is \(3, 5, 4\) and item 0 is \(3, 4, 4\)"):
        load_images(with_item(4, (torch.zeros(3, 5, 4), 0)), None, "train")


@pytest.mark.parametrize("as_tensor_dataset", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_refused_by_index(
    value: float, as_tensor_dataset: bool
) -> None:
    broken = torch.zeros(3, 4, 4)
    broken[1, 2, 3] = value
    dataset: Any = with_item(5, (broken, 1))
    if as_tensor_dataset:
        dataset = TensorDataset(
            torch.stack([item[0] for item in dataset]), torch.tensor([0, 1, 0, 1, 0, 1])
        )
    with pytest.raises(ValueError, match="item 5 of `train` holds NaN or infinity"):
        load_images(dataset, None, "train")


def test_raw_images_without_a_transform_are_refused() -> None:
    pil = v2.ToPILImage()(torch.zeros(3, 4, 4))
    for image in (torch.zeros(3, 4, 4, dtype=torch.uint8), pil, np.zeros((4, 4, 3))):
        with pytest.raises(TypeError, match=r"item 1 is a .*: give a `transform`"):
            load_images(with_item(1, (image, 0)), None, "train")
    integers = TensorDataset(torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(TypeError, match=r"item 0 is a .*uint8.*: give a `transform`"):
        load_images(integers, None, "train")


def test_a_transform_that_gives_no_image_of_floats_or_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match=r"return float or uint8 tensors .* item 0.*int16"):
        load_images(items(), lambda image: (image * 255).to(torch.int16), "train")
    with pytest.raises(TypeError, match=r"shape \(48,\)"):
        load_images(items(), lambda image: image.flatten(), "train")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_images_are_kept_in_the_type_of_the_transform(dtype: torch.dtype) -> None:
    data = load_images(items(), lambda image: (image * 255).to(dtype), "train")
    assert data.images.dtype == dtype
    expected = torch.stack([(image * 255).to(dtype).float() for image, _ in items()])
    if dtype == torch.uint8:
        expected /= 255
    taken = data.take(torch.tensor([4, 1]), torch.device("cpu"))
    assert torch.equal(taken, expected[[4, 1]])


def test_double_floats_are_kept_as_single_ones() -> None:
    assert load_images(items(), lambda image: image.double(), "train").images.dtype == torch.float32


def test_images_of_other_types_than_the_first_are_refused_by_index() -> None:
    changing = iter([torch.float32] * 3 + [torch.float16] * 3)
    with pytest.raises(TypeError, match=r"item 3 of `train` is torch.float16 and item 0"):
        load_images(items(), lambda image: image.to(next(changing)), "train")


def test_what_is_taken_is_a_copy() -> None:
    data = load_images(items(), None, "train")
    data.take(torch.arange(6), torch.device("cpu")).zero_()
    assert torch.equal(data.images[0], items()[0][0])


def test_a_dataset_that_is_empty_or_not_map_style_or_not_of_pairs_is_refused() -> None:
    class Stream(IterableDataset[Item]):
        def __iter__(self) -> Iterator[Item]:
            return iter(items())

        def __len__(self) -> int:
            return 6

    class Images(Dataset[Tensor]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Tensor:
            return torch.zeros(3, 4, 4)

    with pytest.raises(ValueError, match="`train` must hold images, but it is empty"):
        load_images([], None, "train")
    not_map_style: Any
    for not_map_style in (iter(items()), Stream(), DataLoader(Images())):
        with pytest.raises(TypeError, match="`train` must be a map-style dataset"):
            load_images(not_map_style, None, "train")
    with pytest.raises(TypeError, match=r"pairs \(image, label\), but item 0 is a torch.Tensor"):
        load_images(Images(), None, "train")
    with pytest.raises(TypeError, match=r"has 1 tensor"):
        load_images(TensorDataset(torch.zeros(4, 3, 4, 4)), None, "train")


def test_data_of_one_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`train` must have at least two classes.* are 7"):
        check_classes(torch.tensor([7, 7, 7]), "train")


def test_a_validation_class_that_is_missing_from_train_is_refused() -> None:
    val = [(torch.zeros(3, 4, 4), label) for label in (0, 1, 2)]
    with pytest.raises(ValueError, match=r"class 2 \(index 2 of `val`\)"):
        load_training_data(items(), val, None)


def test_validation_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`train` is \(3, 4, 4\) and item 0 of `val` is"):
        load_training_data(items(), items(size=5), None)


def test_training_and_validation_items_keep_their_own_images(digits: Digits) -> None:
    data, whole = load_training_data(digits.train, digits.val, None)
    assert torch.equal(data.images[whole.train], digits.train.tensors[0])
    assert torch.equal(data.labels[whole.val], digits.val.tensors[1])


def test_without_validation_data_a_fifth_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    fold = split_train(labels)
    assert torch.bincount(labels[fold.val]).tolist() == [10, 6, 4]
    assert sorted([*fold.train.tolist(), *fold.val.tolist()]) == list(range(100))


def test_the_split_is_the_same_every_time_whatever_the_random_state() -> None:
    labels = torch.tensor([0, 1] * 20)
    first = split_train(labels)
    np.random.seed(5)
    torch.manual_seed(5)
    second = split_train(labels)
    assert torch.equal(first.train, second.train)
    assert torch.equal(first.val, second.val)


def test_few_images_of_many_classes_still_split() -> None:
    fold = split_train(torch.tensor([0, 0, 1, 1, 2, 2]))
    assert len(fold.train) == 3
    assert len(fold.val) == 3


def test_a_class_of_one_example_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=r"at least 2 examples .* class 4 has 1"):
        split_train(torch.tensor([0, 0, 0, 4, 0, 0]))


def test_folds_cut_training_and_validation_data_into_disjoint_stratified_parts() -> None:
    labels = torch.tensor([0] * 12 + [1] * 6 + [0] * 8 + [1] * 4)
    whole = Fold(torch.arange(18), torch.arange(18, 30))
    folds = stratified_folds(labels, whole, 2)
    assert [torch.bincount(labels[fold.train]).tolist() for fold in folds] == [[6, 3], [6, 3]]
    assert [torch.bincount(labels[fold.val]).tolist() for fold in folds] == [[4, 2], [4, 2]]
    for name in ("train", "val"):
        parts = [index for fold in folds for index in getattr(fold, name).tolist()]
        assert sorted(parts) == getattr(whole, name).tolist()


def test_one_fold_is_all_data() -> None:
    whole = Fold(torch.arange(4), torch.arange(4, 8))
    assert stratified_folds(torch.tensor([0, 1] * 4), whole, 1) == (whole,)


def test_a_class_with_fewer_examples_than_folds_is_refused() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1])
    whole = Fold(torch.arange(6), torch.arange(6, 11))
    with pytest.raises(ValueError, match=r"`val` needs at least 3 .*`folds=3`.* class 1 has 2"):
        stratified_folds(labels, whole, 3)


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (3, 1, [1, 1, 1]),
        (1, 4, [1]),
        (2, 4, [2]),
    ],
)
def test_batches_hold_every_item_and_no_single_one_at_the_end(
    n: int, batch_size: int, sizes: list[int]
) -> None:
    cut = list(batches(torch.arange(n), batch_size))
    assert [len(batch) for batch in cut] == sizes
    assert torch.equal(torch.cat(cut), torch.arange(n))
