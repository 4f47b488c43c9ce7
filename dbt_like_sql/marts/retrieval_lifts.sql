-- The paper's figures are those of its Table 4.
with paper (model, relevance_lift, recall_lift) as (
    values
        ('last_pin', 0.0, 0.0),
        ('decay_average', 0.28, 0.14),
        ('pinnersage_sample_1', 0.33, 0.18),
        ('pinnersage_k_means', 0.91, 0.68),
        ('pinnersage_complete_linkage', 0.88, 0.65),
        ('pinnersage_centroid', 1.05, 0.81),
        ('pinnersage_decay_0', 0.97, 0.72),
        ('pinnersage_decay_0.1', 0.94, 0.69),
        ('pinnersage', 1.10, 0.88)
)

select
    r.dt,
    r.model,
    r.relevance,
    r.relevance / nullif(base.relevance, 0) - 1 as relevance_lift,
    paper.relevance_lift::double as paper_relevance_lift,
    r.recall,
    r.recall / nullif(base.recall, 0) - 1 as recall_lift,
    paper.recall_lift::double as paper_recall_lift,
    r.set_size,
    r.users
from {{ source('evaluation', 'retrieval') }} as r
left join {{ source('evaluation', 'retrieval') }} as base on r.dt = base.dt and base.model = 'last_pin'
left join paper on r.model = paper.model
where r.dt between '{{ var("first_dt") }}' and '{{ var("last_dt") }}'
