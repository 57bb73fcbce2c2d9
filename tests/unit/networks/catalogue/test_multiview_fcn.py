import torch

from pipeline.networks.catalogue.multiview_fcn import MultiViewFCN, vote


def views(*rows):
    """Probabilities of three classes that each view gives one voxel."""
    return torch.tensor(rows)[:, None, :, None, None, None]


def said(*rows):
    return int(vote(views(*rows)).argmax(1))


def test_the_majority_wins_however_sure_the_other_is():
    assert said([0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.0, 0.0, 1.0]) == 1


def test_where_all_differ_the_more_probable_class_wins():
    assert said([0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]) == 1


def test_a_vote_gives_shares_that_add_up_to_one():
    share = vote(views([0.1, 0.5, 0.4], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0])).softmax(1)
    assert abs(float(share.sum()) - 1) < 1e-6
    assert share[0, 1] > share[0, 2] > share[0, 0]


def test_each_view_sees_slices_of_its_own():
    torch.manual_seed(0)
    network = MultiViewFCN(1, 2, width=1 / 32, dropout=0)
    for view in network.views:
        view.eval()
    image = torch.randn(1, 1, 32, 32, 32)
    before = network(image)
    for axis in range(3):
        changed = image.clone()
        changed.select(2 + axis, 5).add_(3)
        moved = [(one - other).abs() for one, other in zip(before, network(changed), strict=True)]
        # The view across this axis sees one slice change, the others see all of theirs.
        alone = moved[axis].movedim(2 + axis, 0).flatten(1).amax(1)
        assert alone[5] > 0
        assert alone[torch.arange(32) != 5].max() == 0
        for other in {0, 1, 2} - {axis}:
            assert moved[other].movedim(2 + axis, 0).flatten(1).amax(1).gt(0).sum() > 1


def test_the_answer_is_the_vote_of_the_views():
    torch.manual_seed(0)
    network, image = MultiViewFCN(1, 3, width=1 / 32).eval(), torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        answer = network(image)
        network.training = True
        each = torch.stack(network(image)).softmax(2)
    torch.testing.assert_close(answer, vote(each))
