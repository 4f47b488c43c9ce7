-- The paper's figures are those of its Table 4. HierTCN, LSTM and GRU must be trained: we do not reproduce them, and of the
-- last two the paper gives no figures.
with paper (model, relevance_lift, recall_lift) as (
    values
        ('last_pin', 0.0, 0.0),
        ('decay_average', 0.28, 0.14),
        ('hier_tcn', 0.31, 0.16),
        ('lstm', null, null),
        ('gru', null, null),
        ('pinnersage_sample_1', 0.33, 0.18),
        ('pinnersage_k_means', 0.91, 0.68),
        ('pinnersage_complete_linkage', 0.88, 0.65),
        ('pinnersage_centroid', 1.05, 0.81),
        ('pinnersage_hier_tcn', 1.10, 0.88),
        ('pinnersage_decay_0', 0.97, 0.72),
        ('pinnersage_decay_0.1', 0.94, 0.69),
        ('pinnersage', 1.10, 0.88)
),

measured as (
    select * from {{ source('evaluation', 'retrieval') }}
    where dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
),

-- What we measure, and on each day that was evaluated every row of the paper's table.
listed as (
    select dt, model from measured
    union
    select measured.dt, paper.model from measured cross join paper
)

select
    l.dt,
    l.model,
    r.model is not null as reproduced,
    r.relevance,
    r.relevance / nullif(base.relevance, 0) - 1 as relevance_lift,
    paper.relevance_lift::double as paper_relevance_lift,
    r.recall,
    r.recall / nullif(base.recall, 0) - 1 as recall_lift,
    paper.recall_lift::double as paper_recall_lift,
    r.set_size,
    r.users
from listed as l
left join measured as r on l.dt = r.dt and l.model = r.model
left join measured as base on l.dt = base.dt and base.model = 'last_pin'
left join paper on l.model = paper.model
