"""Deformable DETR's queries: learned points, or proposals of the encoder ("two-stage").

Both bring position encodings of their own, which stay the same in all decoder layers (`OwnPosition`).
"""

from torch import Tensor, nn

from dino_d2.layers import sine_embedding

from .levels import Levels
from .queries import ProposalHead, Proposals, Queries, take


class ReferencePointQueries(nn.Module):
    """Learned content and position; the position says which point of the image a query starts from (section 4.1).

    Args:
        num_queries: N.
        embed_dim: D.
    """

    def __init__(self, num_queries: int = 300, embed_dim: int = 256):
        super().__init__()
        self.embedding = nn.Embedding(num_queries, 2 * embed_dim)  # position, content
        self.reference_point = nn.Linear(embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_point.weight)
        nn.init.zeros_(self.reference_point.bias)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] gives the batch size alone; the anchors are points [B, N, 2]."""
        positions, content = self.embedding.weight.expand(len(memory), -1, -1).chunk(2, dim=-1)
        return Queries(content, self.reference_point(positions).sigmoid(), None, positions)


class ObjectnessProposalHead(ProposalHead):
    """Proposals as Deformable DETR makes them (appendix A.4): the first class stands for "any object".

    Tokens are ranked by its logit alone, and all tokens learn, not the chosen ones only.
    """

    def forward(self, memory: Tensor, levels: Levels, num_proposals: int) -> Proposals:
        """As in :class:`ProposalHead`, but logits [B, S, C] and boxes [B, S, 4] are those of all tokens."""
        anchor_logits, usable = self.token_anchors(levels)
        features = self.norm(self.project(memory * usable))
        logits = self.class_head(features)  # [B, S, C]
        index = logits[..., 0].topk(min(num_proposals, logits.shape[1]), dim=1).indices
        return Proposals(
            index=index,
            features=take(features, index),
            logits=logits,
            anchors=take(anchor_logits, index).sigmoid(),
            boxes=(self.box_head(features) + anchor_logits).sigmoid(),
        )


class TwoStageQueries(nn.Module):
    """Anchors, content and position of the queries, all from the boxes of the best proposals (section 4.2).

    Args:
        proposal_head: an :class:`ObjectnessProposalHead`.
        num_queries: N.
        embed_dim: D.
    """

    def __init__(self, proposal_head: ObjectnessProposalHead, num_queries: int = 300, embed_dim: int = 256):
        super().__init__()
        self.num_queries = num_queries
        self.proposal_head = proposal_head
        self.project = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.norm = nn.LayerNorm(2 * embed_dim)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] -> N = min(num_queries, S) queries."""
        proposals = self.proposal_head(memory, levels, self.num_queries)
        anchors = take(proposals.boxes, proposals.index).detach()
        sine = sine_embedding(anchors, self.project.in_features // 4, temperature=10000)  # x, y, w, h
        positions, content = self.norm(self.project(sine)).chunk(2, dim=-1)
        return Queries(content, anchors, proposals, positions)
