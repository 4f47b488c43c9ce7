-- The paper's figures are those of its Table 5.
with paper (model, r_precision_lift, reciprocal_rank_lift) as (
    values
        ('last_pin', 0.0, 0.0),
        ('decay_average', 0.08, 0.07),
        ('pinnersage_sample_1', 0.24, 0.18),
        ('pinnersage_k_means', 0.32, 0.24),
        ('pinnersage_complete_linkage', 0.29, 0.22),
        ('pinnersage_centroid', 0.37, 0.28),
        ('pinnersage_decay_0', 0.31, 0.24),
        ('pinnersage_decay_0.1', 0.30, 0.24),
        ('pinnersage', 0.37, 0.28)
)

select
    r.dt,
    r.model,
    r.negatives,
    r.r_precision,
    r.r_precision / nullif(base.r_precision, 0) - 1 as r_precision_lift,
    paper.r_precision_lift::double as paper_r_precision_lift,
    r.reciprocal_rank,
    r.reciprocal_rank / nullif(base.reciprocal_rank, 0) - 1 as reciprocal_rank_lift,
    paper.reciprocal_rank_lift::double as paper_reciprocal_rank_lift,
    r.users
from {{ source('evaluation', 'ranking') }} as r
left join {{ source('evaluation', 'ranking') }} as base
    on r.dt = base.dt and r.negatives = base.negatives and base.model = 'last_pin'
left join paper on r.model = paper.model
where r.dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
