-- The paper's figures are those of its Table 5, among impressions. HierTCN is a network that must be trained: we do not
-- reproduce it.
with paper (model, negatives, r_precision_lift, reciprocal_rank_lift) as (
    values
        ('last_pin', 'impressions', 0.0, 0.0),
        ('decay_average', 'impressions', 0.08, 0.07),
        ('hier_tcn', 'impressions', 0.21, 0.16),
        ('lstm', 'impressions', null, null),
        ('gru', 'impressions', null, null),
        ('pinnersage_sample_1', 'impressions', 0.24, 0.18),
        ('pinnersage_k_means', 'impressions', 0.32, 0.24),
        ('pinnersage_complete_linkage', 'impressions', 0.29, 0.22),
        ('pinnersage_centroid', 'impressions', 0.37, 0.28),
        ('pinnersage_hier_tcn', 'impressions', 0.37, 0.28),
        ('pinnersage_decay_0', 'impressions', 0.31, 0.24),
        ('pinnersage_decay_0.1', 'impressions', 0.30, 0.24),
        ('pinnersage', 'impressions', 0.37, 0.28)
),

measured as (
    select * from {{ source('evaluation', 'ranking') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
),

-- What we measure, and on each day that was evaluated every row of the paper's table.
listed as (
    select dt, model, negatives from measured
    union
    select measured.dt, paper.model, paper.negatives from measured cross join paper
)

select
    l.dt,
    l.model,
    l.negatives,
    r.model is not null as reproduced,
    r.r_precision,
    r.r_precision / nullif(base.r_precision, 0) - 1 as r_precision_lift,
    paper.r_precision_lift::double as paper_r_precision_lift,
    r.reciprocal_rank,
    r.reciprocal_rank / nullif(base.reciprocal_rank, 0) - 1 as reciprocal_rank_lift,
    paper.reciprocal_rank_lift::double as paper_reciprocal_rank_lift,
    r.padded_share,
    r.users
from listed as l
left join measured as r on l.dt = r.dt and l.model = r.model and l.negatives = r.negatives
left join measured as base on l.dt = base.dt and l.negatives = base.negatives and base.model = 'last_pin'
left join paper on l.model = paper.model and l.negatives = paper.negatives
